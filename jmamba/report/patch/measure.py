"""Which layer and token carry what two texts differ in: activation patching."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.attention import Contrast
from jmamba.figures.labels import split_pieces, token_labels
from jmamba.files.tokenizer import Tokenizer
from jmamba.interventions.names import locate_place
from jmamba.interventions.patching import (
    AttributedPatches,
    attribution_patching,
    patching_error,
    sweep_patches,
)
from jmamba.interventions.sweep_result import Sweep
from jmamba.models.text_model import TextModel
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import check_logits
from jmamba.report.environment import environment
from jmamba.report.outcomes import outcomes_of
from jmamba.report.patch.pair import encode_pair
from jmamba.report.patch.report import PatchReport
from jmamba.report.predictions import (
    Predictions,
    best_predictions,
    name_predictions,
    read_prediction,
)
from jmamba.requests import choose_layers

STAGES = ("predictions", "patching", "attribution patching")

LEAST_DIFFERENCE = 1e-4
"""Logits that differ by less than this part of them are the same."""


def measure_patches(
    model: TextModel,
    tokenizer: Tokenizer,
    clean: str,
    corrupted: str,
    *,
    place: str = "residual_out",
    layers: Sequence[int] | None = None,
    answer: int | str | None = None,
    instead_of: int | str | None = None,
    top: int = 5,
    name: str = "model",
    progress: Progress = ignore,
) -> PatchReport:
    """Put what passes in the clean run into the corrupted one, everywhere in turn.

        recovered[layer, i] = (logit patched there - logit corrupted)
                              / (logit clean - logit corrupted)

    Args:
      model: a language model, or a classifier of texts.
      tokenizer: its tokenizer.
      clean: a text.
      corrupted: another one of as many tokens.
      place: what is patched, see `locate_place`.
      layers: in which layers, negative ones from the end; None for all.
      answer: the next token whose logit is read, its text or its id, or the class, its
        name or its number; None for the likeliest after the clean text.
      instead_of: another, whose logit is taken off; None for none.
      top: how many of the likeliest next tokens or classes to keep.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Raises:
      ValueError: the texts are empty, the same, or of different numbers of tokens;
        there is no such layer, place, next token or class; or both texts give the
        answer the same logit.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = measure_patches(model, ByteTokenizer(), "hello", "jello")
      >>> found.recovered.shape, found.recovered[1, 4].round(3).tolist()
      ((2, 5), 1.0)

    References:
      Meng et al., arXiv 2202.05262, section 2.1; Nanda, "Attribution patching", 2023.
    """
    both, outcomes = (
        encode_pair(tokenizer, clean, corrupted),
        outcomes_of(model, tokenizer),
    )
    spelled = locate_place(model, place)
    if spelled.layer is not None and layers is None:
        layers = [spelled.layer]
    is_outside = spelled.place in model.outside
    chosen = () if is_outside else choose_layers(layers, model.config.num_layers)
    given = [
        None if word is None else outcomes.choose(word) for word in (answer, instead_of)
    ]
    one, other = (jnp.asarray([ids], jnp.int32) for ids in both)
    timings: dict[str, float] = {}
    with timed(STAGES[0], timings, progress):
        logits = [read_prediction(model, tokens) for tokens in (one, other)]
        for own in logits:
            check_logits(own, name)
    label = partial(outcomes.label, both[0][-1])
    asked = _ask(logits, given, top, label, outcomes.kind)
    numbers = asked.question.ids.tolist()
    target = numbers[0] if len(numbers) == 1 else Contrast(*numbers)
    exact, guess = _patch_everywhere(
        model,
        one,
        other,
        spelled.place.name,
        target=target,
        layers=None if is_outside else chosen,
        timings=timings,
        progress=progress,
    )
    pieces = split_pieces(clean, tokenizer.offsets(clean))
    others = split_pieces(corrupted, tokenizer.offsets(corrupted))
    shape = (len(chosen) or 1, len(both[0]))
    return PatchReport(
        model=name,
        clean=clean,
        corrupted=corrupted,
        ids=np.asarray(both[0], np.int32),
        corrupted_ids=np.asarray(both[1], np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(both[0]))),
        corrupted_labels=tuple(token_labels(others, tokenizer.pieces(both[1]))),
        place=spelled.place.name,
        layers=chosen,
        question=asked.question,
        predictions=asked.clean,
        corrupted_predictions=asked.corrupted,
        change=exact.change.reshape(shape),
        estimate=np.asarray(guess.values, np.float32).reshape(shape),
        base=float(exact.base[0]),
        goal=asked.goal,
        error=patching_error(guess, exact),
        settings={
            "place": spelled.place.name,
            "layers": list(chosen),
            "answer": numbers[0],
            "instead_of": numbers[1] if len(numbers) > 1 else None,
            "top": top,
            "dtype": jnp.dtype(model.dtype).name,
        },
        environment=environment(),
        timings=timings,
    )


def _patch_everywhere(
    model, clean, corrupted, place, *, target, layers, timings, progress
) -> tuple[Sweep, AttributedPatches]:
    """Return the exact sweep over layers and tokens, and its estimate.

    Outside of the layers `layers` is None.
    """
    over: dict[str, Any] = {} if layers is None else {"layers": layers}
    over["positions"] = range(clean.shape[1])
    with timed(STAGES[1], timings, progress):
        exact = sweep_patches(
            model,
            clean,
            corrupted,
            place,
            over,
            target=target,
            progress=lambda _, done, total: progress(STAGES[1], done, total),
        )
    with timed(STAGES[2], timings, progress):
        guess = attribution_patching(model, clean, corrupted, place, target=target)
    if layers is not None:
        guess = guess._replace(values=guess.values[jnp.asarray(layers)])
    return exact, guess


class _Asked(NamedTuple):
    """What is asked for, what both texts predict, and the logit that is the goal."""

    question: Predictions
    clean: Predictions
    corrupted: Predictions
    goal: float


def _ask(logits, given, top, label, kind) -> _Asked:
    """Return the answer and what it is compared with.

    Raises:
      ValueError: both are the same, or its logit is the same in both runs.
    """
    clean, corrupted = (best_predictions(own, top, label, kind) for own in logits)
    ids = [int(clean.ids[0]) if given[0] is None else given[0]]
    ids += [] if given[1] is None else [given[1]]
    question = name_predictions(logits[0], ids, label, kind)
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"The answer and what it is compared with are both {question.labels[0]}; "
            f"give two different {kind.several}."
        )
    goal, base = (_read(own, ids) for own in logits)
    if abs(goal - base) <= LEAST_DIFFERENCE * max(abs(goal), abs(base), 1):
        first, second = (", ".join(one.labels[:3]) for one in (clean, corrupted))
        raise ValueError(
            f"Both texts give {' rather than '.join(question.labels)} the same logit "
            f"({goal:.4g}), so that a patch has nothing to bring back. Ask for an "
            f"answer that they disagree on: after the clean text come {first}, after "
            f"the corrupted one {second}."
        )
    return _Asked(question, clean, corrupted, goal)


def _read(logits: Float[np.ndarray, "v"], ids: list[int]) -> float:
    """Return the logit of the answer, less that of what it is compared with."""
    first, *second = logits[ids].astype(np.float64)
    return float(first - sum(second))
