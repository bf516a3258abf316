"""One edit at many points: layers by positions, and more axes."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from jmamba.attention.question import PerSample, TargetChoice, ask, pick
from jmamba.evaluation.records import RecordFile
from jmamba.interventions.edits import Edit
from jmamba.interventions.points import AXES
from jmamba.interventions.request import Edits, Inputs, Intervention, open_intervention
from jmamba.interventions.sweep_result import Sweep
from jmamba.interventions.walking import Start, enter_layers, read_edited, read_target
from jmamba.layers.model import LayeredModel
from jmamba.progress import Progress, ignore
from jmamba.requests import WORKING_BYTES

VALUES = "values"
"""The axis of what an edit is given, one entry after the other."""


def sweep(
    model: LayeredModel,
    inputs: Inputs,
    edits: Edits,
    over: Mapping[str, Sequence[Any]],
    *,
    target: TargetChoice = None,
    query: PerSample = None,
    file: str | Path | None = None,
    memory_limit: int = WORKING_BYTES,
    progress: Progress = ignore,
) -> Sweep:
    """Do one edit at every point of a grid, and read one logit each time.

    One program does all of them, several at a time and those of late layers first; a
    run begins at the first layer that is edited in any of these. What is done stays in
    `file`, and a call that was interrupted goes on from there.

    Args:
      model: a model of texts or images.
      inputs: token ids (b, l) or images.
      edits: what is done at every point: one edit, or several that are done together.
      over: axis -> its entries: "layers", "positions", "channels", "heads" or "states"
        of the edits' points, or "values" of what the edits are given.
      target: whose logit is read, a `MeanOf`, `Contrast` or `Continuation`; None for
        the predicted one of the run without edits.
      query: off which token, one or one per sample; None for the usual one.
      file: where measurements are kept; None for nowhere.
      memory_limit: bytes that the points in flight may take.
      progress: told how many points are done.

    Returns:
      Logits by point and sample, and those without edits.

    Raises:
      ValueError: inputs do not fit, an edit cannot be done, an axis is unknown or
        empty, one point alone takes more than the limit, or the file is of another
        sweep.

    Examples:
      >>> import jmamba
      >>> from jmamba.interventions import zero
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> tokens = jnp.array([list(b"hello")])
      >>> found = sweep(
      ...     model, tokens, zero("output"), {"layers": range(2), "positions": range(5)}
      ... )
      >>> found.values.shape, found.base.shape
      ((2, 5, 1), (1,))
    """
    edits = (edits,) if isinstance(edits, Edit) else tuple(edits)
    question = ask(model, inputs, target, query)
    axes = {name: _entries(name, entries) for name, entries in over.items()}
    request = _check_cells(model, question.inputs, edits, axes)
    _, target = read_target(*question)
    cells = list(itertools.product(*(range(len(x)) for x in axes.values())))
    labels = [_label(axes, cell) for cell in cells]
    records = RecordFile(file, {} if file is None else _settings(request, axes, target))
    done = records.found.get("sweep", {})
    left = [i for i, label in enumerate(labels) if label not in done]
    found = {label: np.asarray(row["logit"]) for label, row in done.items()}
    if BASE in done:
        found[BASE] = np.asarray(done[BASE]["logit"])
    jobs: list[int | None] = [*left, *([] if BASE in done else [None])]
    finished, total = len(cells) + 1 - len(jobs), len(cells) + 1
    for part, width, start in _deal(request, axes, cells, jobs, memory_limit):
        rows = _measure(
            *(request, axes, cells, part, width, start, question.query, target)
        )
        names = [BASE if i is None else labels[i] for i in part]
        if file is not None:
            records.append("sweep", names, {"logit": rows})
        found |= dict(zip(names, rows, strict=True))
        finished += len(part)
        progress("points", finished, total)
    shape = tuple(len(x) for x in axes.values())
    values = np.stack([found[label] for label in labels]).astype(np.float32)
    ops = [f"{edit.op} {edit.point.name}" for edit in request.edits]
    return Sweep(
        values.reshape(*shape, -1),
        found[BASE].astype(np.float32),
        {name: tuple(_shown(x) for x in entries) for name, entries in axes.items()},
        ", ".join(ops),
    )


BASE = "without edits"
"""The run that all others are compared with; it is one of the same program."""


def _entries(name: str, entries: Sequence[Any]) -> np.ndarray:
    if name not in (*AXES, VALUES):
        known = ", ".join((*AXES, VALUES))
        raise ValueError(f"over={{{name!r}: ...}} is no axis; give some of {known}.")
    made = np.asarray(entries)
    if made.ndim == 0 or len(made) == 0:
        raise ValueError(f"over={{{name!r}: ...}} has no entries; give at least one.")
    return made


def _check_cells(model, inputs, edits, axes) -> Intervention:
    """Return the checked request of edits at all entries at once."""
    if not axes:
        raise ValueError("over is empty; give at least one axis, such as layers.")
    chosen = {name: entries for name, entries in axes.items() if name != VALUES}
    for name in chosen:
        for edit in edits:
            if getattr(edit.point, name) is not None:
                raise ValueError(
                    f"{name} are given by over= and by the edit of "
                    f"{edit.point.name!r}; leave one of them out."
                )
    if VALUES not in axes:
        open_intervention(model, inputs, edits)  # values have all layers, or no axis
    everywhere = tuple(_at(edit, chosen) for edit in edits)
    for value in axes.get(VALUES, ()):
        everywhere = tuple(_with(edit, jnp.asarray(value)) for edit in everywhere)
        open_intervention(model, inputs, everywhere)
    request = open_intervention(model, inputs, everywhere)
    spelled = zip(edits, request.edits, strict=True)
    edits = tuple(
        dataclasses.replace(
            edit, point=dataclasses.replace(edit.point, name=one.point.name)
        )
        for edit, one in spelled
    )
    return request._replace(edits=edits)


def _with(edit: Edit, value: Any) -> Edit:
    return dataclasses.replace(edit, value=value)


def _at(edit: Edit, cell: Mapping[str, Any]) -> Edit:
    """Return an edit at the entries that a cell names."""
    chosen = {name: cell[name] for name in cell if name in AXES}
    edit = dataclasses.replace(edit, point=dataclasses.replace(edit.point, **chosen))
    return _with(edit, cell[VALUES]) if VALUES in cell else edit


def _label(axes: Mapping[str, np.ndarray], cell: Sequence[int]) -> str:
    named = zip(axes.items(), cell, strict=True)
    return " ".join(f"{name}={entries[i].tolist()}" for (name, entries), i in named)


def _shown(entry: Any) -> Any:
    return entry.item() if np.ndim(entry) == 0 else str(entry.tolist())


def _deal(
    request: Intervention, axes, cells, jobs: list[int | None], memory_limit: int
) -> Iterator[tuple[list[int | None], int, Start]]:
    """Yield which jobs are done together, of how many at most, and where they begin.

    Args:
      request: what is done at each cell.
      axes, cells: of the grid.
      jobs: numbers of cells; None for the run without edits, which comes last.
      memory_limit: bytes that those done together may take.
    """
    end = request.num_layers
    firsts = [_first_layer(request, axes, cell) for cell in cells]
    width = _width(request, max(Counter(firsts).values()), memory_limit)
    jobs = sorted(jobs, key=lambda i: 1 if i is None else -firsts[i])
    entering = enter_layers(request.graphdef, request.state, request.inputs)
    for place in range(0, len(jobs), width):
        part = jobs[place : place + width]
        layer = min(end if i is None else firsts[i] for i in part)
        yield part, width, Start(jnp.asarray(layer), entering[layer])


def _first_layer(request: Intervention, axes, cell: Sequence[int]) -> int:
    """Return the first layer that is edited at a cell.

    It is 0 where an edit names no layers, and the end of all where none is in them.
    """
    count = request.num_layers
    chosen = {
        name: entries[i] for (name, entries), i in zip(axes.items(), cell, strict=True)
    }
    firsts = [count]
    for edit in request.edits:
        layers = chosen.get("layers", edit.point.layers)
        is_inside = edit.point.name not in request.outside
        if edit.point.name == "embedding" or (is_inside and layers is None):
            return 0
        if is_inside:
            if isinstance(layers, Tracer):
                return 0
            firsts.append(int(np.min(np.asarray(layers) % count)))
    return min(firsts)


def _measure(request: Intervention, axes, cells, part, width, start, query, target):
    """Return the logits of some cells; the program always does `width` of them."""
    filled = [*part, *([None] * (width - len(part)))]
    is_on = jnp.asarray([i is not None for i in filled])
    entries = {
        name: jnp.asarray([values[cells[i or 0][axis]] for i in filled])
        for axis, (name, values) in enumerate(axes.items())
    }
    rows = measure_cells(
        *(request.graphdef, request.state, request.inputs, request.edits),
        *(entries, is_on, start, query, target),
    )
    return np.asarray(rows)[: len(part)]


@partial(jax.jit, static_argnames="graphdef")
def measure_cells(graphdef, state, inputs, edits, entries, is_on, start, query, target):
    """Return the logit of each cell's edits, (cells, b), from where all begin."""
    model = nnx.merge(graphdef, state)

    def measure(cell, is_on):
        chosen = [_at(edit, cell) for edit in edits]
        chosen = [dataclasses.replace(edit, is_on=is_on) for edit in chosen]
        return pick(read_edited(model, inputs, chosen, query, start), target)

    return jax.vmap(measure)(entries, is_on)


def _width(request: Intervention, count: int, limit: int) -> int:
    """Return how many points fit into the memory, evenly dealt.

    Args:
      request: what is done at each.
      count: of the points that begin at one layer.
      limit: bytes.
    """
    asked = {edit.point.name for edit in request.edits}
    one = sum(
        math.prod(x.shape) * x.dtype.itemsize
        for name, x in request.shapes.items()
        if name in asked or not request.places[name].axes.endswith("n")
    )
    if one > limit:
        raise ValueError(
            f"One point takes {one / 2**30:.2f} GiB, over the limit of "
            f"{limit / 2**30:.2f} GiB; give fewer samples or tokens, or raise "
            "memory_limit."
        )
    most = min(count, limit // one)
    return math.ceil(count / math.ceil(count / most))


def _settings(request: Intervention, axes, target) -> dict[str, Any]:
    """Return all that a sweep's numbers depend on, for its file."""
    digest = hashlib.sha256()
    for part in (request.state, request.inputs, request.edits, axes, target):
        for leaf in jax.tree.leaves(part):
            made = np.asarray(leaf)
            digest.update(f"{made.shape}{made.dtype}".encode() + made.tobytes())
    edits = [f"{edit.op} {edit.point.name}" for edit in request.edits]
    return {"sweep": edits, "over": list(axes), "digest": digest.hexdigest()}
