"""What can be measured of documents: functions of a model and tokens."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmamba.attention.matrices.reduction import REDUCTIONS, reduced_attention
from jmamba.attention.relevance.token_vectors import (
    alti_matrix,
    norm_matrix,
    token_vectors,
)
from jmamba.dynamics.trained.jacobian import jacobian_norms, layer_span
from jmamba.interventions.lens import read_lens
from jmamba.layers.letters import shared_letters
from jmamba.ops.meshes import on_any_mesh
from jmamba.ops.sharding import keep_places
from jmamba.requests import choose_layers

TOKEN_AXES = ("token", "output_token", "input_token")
"""Names of axes that are as long as a document."""


class Analysis(NamedTuple):
    """Something that is measured of each document.

    Attributes:
      measure: called as measure(model, tokens, lengths) with tokens (b, l), padded on
        the right, and how many of each are the document's; returns name -> array. It
        has to be a function of these alone.
      axes: name of an array -> names of its axes, the first of which is "document".
        Those of `TOKEN_AXES` are as long as the documents, others the same for all.
      units: name of an array -> its unit, and what it is, in words.
      settings: what else the arrays depend on, as JSON has it.
    """

    measure: Callable[[Any, Any, Any], Mapping[str, Any]]
    axes: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class AnalysisOptions:
    """Choices of what is measured.

    Attributes:
      layers: which, negative ones from the end; None for all.
      reduction: of attention over channels or heads, one of `attention.REDUCTIONS`.
      probes: random directions that Jacobian norms are estimated from; None for all.
      seed: of these.
      top: likeliest tokens that the lens keeps.
    """

    layers: tuple[int, ...] | None = None
    reduction: str = "mean_abs"
    probes: int | None = 8
    seed: int = 0
    top: int = 5

    def __post_init__(self):
        """Check what can be checked without a model."""
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                f"Unknown reduction {self.reduction!r}; give one of "
                f"{', '.join(REDUCTIONS)}."
            )
        for name in ("probes", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1.")


def named_analyses(
    names: Sequence[str], options: AnalysisOptions | None = None
) -> dict[str, Analysis]:
    """Return analyses of `ANALYSES` by their names.

    Raises:
      ValueError: there is none of a name, or none is given.

    Examples:
      >>> named_analyses(["rows"])["rows"].axes["rows"]
      ('document', 'layer', 'token')
    """
    unknown = [name for name in names if name not in ANALYSES]
    if unknown or not names or isinstance(names, str):
        said = f"There is no analysis {', '.join(unknown)}" if unknown else "None asked"
        raise ValueError(f"{said}; give some of {', '.join(ANALYSES)}.")
    return {name: ANALYSES[name](options or AnalysisOptions()) for name in names}


def _rows(options: AnalysisOptions) -> Analysis:
    def measure(model, tokens, lengths):
        return {
            "rows": _by_layer(model, tokens, lengths, options, _attend_last)[:, :, 0]
        }

    return Analysis(
        measure,
        {"rows": ("document", "layer", "token")},
        {"rows": "1, hidden attention of the document's last token"},
        _settings(options, "layers", "reduction"),
    )


def _matrices(options: AnalysisOptions) -> Analysis:
    unit = "1, hidden attention, reduced over channels or heads"
    return _of_pairs("matrices", _attend, unit, options, "reduction")


def _vectors(options: AnalysisOptions) -> Analysis:
    unit = "as activations, T_i(x_j)"
    return _of_pairs("vectors", _add_vectors, unit, options, last=("width",))


def _vector_norms(options: AnalysisOptions) -> Analysis:
    unit = "as activations, |T_i(x_j)|_2"
    return _of_pairs("vector_norms", _add_norms, unit, options)


def _alti(options: AnalysisOptions) -> Analysis:
    unit = "1, how near token j's vector is to output i"
    return _of_pairs("alti", _come_near, unit, options)


def _jacobian(options: AnalysisOptions) -> Analysis:
    @on_any_mesh
    def measure(model, tokens, lengths):
        norms = _norms(layer_span(model), model.embed(tokens), options)
        return {"jacobian": norms}

    return Analysis(
        measure,
        {"jacobian": ("document", "output_token", "input_token")},
        {"jacobian": "1, |d x_out[i] / d x_in[j]|_F of all layers"},
        _settings(options, "probes", "seed"),
    )


def _layer_jacobians(options: AnalysisOptions) -> Analysis:
    @on_any_mesh
    def measure(model, tokens, lengths):
        layers = choose_layers(options.layers, model.config.num_layers)
        streams = _residual_streams(*nnx.split(model), tokens, layers)
        norms = [
            _norms(layer_span(model, layer, layer + 1), x, options)
            for layer, x in zip(layers, streams, strict=True)
        ]
        return {"layer_jacobians": jnp.stack(norms, axis=1)}

    return Analysis(
        measure,
        {"layer_jacobians": ("document", "layer", "output_token", "input_token")},
        {"layer_jacobians": "1, |d x_out[i] / d x_in[j]|_F of each layer"},
        _settings(options, "layers", "probes", "seed"),
    )


def _lens(options: AnalysisOptions) -> Analysis:
    def measure(model, tokens, lengths):
        found = read_lens(model, tokens, layers=options.layers, top=options.top)
        return {
            f"lens_{name}": jnp.moveaxis(x, 0, 1)  # s b ... -> b s ...
            for name, x in found._asdict().items()
        }

    numbers, best = ("document", "layer", "token"), ("likeliest",)
    units = {
        "lens_ids": "token, the likeliest to each layer",
        "lens_probabilities": "1, theirs",
        "lens_entropy": "bit, of the layer's distribution",
        "lens_divergence": "bit, KL(model || layer)",
        "lens_predicted": "1, the layer's probability of the model's likeliest token",
        "lens_rank": "1, tokens that the layer finds likelier than that",
    }
    lists = ("lens_ids", "lens_probabilities")
    axes = {name: numbers + (best if name in lists else ()) for name in units}
    return Analysis(measure, axes, units, _settings(options, "layers", "top"))


ANALYSES: dict[str, Callable[[AnalysisOptions], Analysis]] = {
    "rows": _rows,
    "matrices": _matrices,
    "vectors": _vectors,
    "vector_norms": _vector_norms,
    "alti": _alti,
    "jacobian": _jacobian,
    "layer_jacobians": _layer_jacobians,
    "lens": _lens,
}
"""What `jmamba analyse --what` knows: name -> what makes it of options.

rows             what the last token attends to, by layer: linear in length
matrices         reduced hidden attention of all tokens: quadratic
vectors          T_i(x_j), what token j adds to output i: quadratic, times the width
vector_norms     their norms, without holding vectors: quadratic
alti             how near they are to the output, likewise
jacobian         norms of the blocks of the whole model's Jacobian: quadratic
layer_jacobians  the same of each layer
lens             what each layer would say, in few numbers: linear
"""


def _settings(options: AnalysisOptions, *names: str) -> dict[str, Any]:
    """Return some of the options, as JSON has them."""
    values = {name: getattr(options, name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _of_pairs(
    name: str, read: Callable, unit: str, options: AnalysisOptions, *others: str,
    last: tuple[str, ...] = (),
) -> Analysis:  # fmt: skip
    """Return the analysis of pairs of tokens of each layer."""

    def measure(model, tokens, lengths):
        return {name: _by_layer(model, tokens, lengths, options, read)}

    return Analysis(
        measure,
        {name: ("document", "layer", "output_token", "input_token", *last)},
        {name: unit},
        _settings(options, "layers", *others),
    )


def _attend_last(options, block, x, out, queries):
    return reduced_attention(out.recurrence, options.reduction, rows=queries[:, None])


def _attend(options, block, x, out, queries):
    return reduced_attention(out.recurrence, options.reduction)


def _add_vectors(options, block, x, out, queries):
    return token_vectors(block, x).vectors


def _add_norms(options, block, x, out, queries):
    return norm_matrix(block, x)


def _come_near(options, block, x, out, queries):
    return alti_matrix(block, x)


def _by_layer(model, tokens, lengths, options, read) -> Any:
    """Return what is read of each layer, documents first."""
    layers = choose_layers(options.layers, model.config.num_layers)
    graphdef, state = nnx.split(model)
    found = _walk(graphdef, state, tokens, lengths - 1, options, read, layers)
    return jnp.moveaxis(found, 0, 1)  # s b ... -> b s ...


@partial(jax.jit, static_argnames=("graphdef", "options", "read", "layers"))
def _walk(graphdef, state, tokens, queries, options, read, layers):
    def run(tokens, queries, state):
        model = nnx.merge(graphdef, state)

        def look(block, x, out):
            return read(options, block, x, out, queries)

        return model.run_layers(model.embed(tokens), read=look, only=layers).found

    letters = shared_letters(nnx.merge(graphdef, state))
    out_axes = "sb___" if read is _add_vectors else "sb__"
    return keep_places(run, (tokens, queries, state), ("bl", "b", letters), out_axes)


@partial(jax.jit, static_argnames=("graphdef", "layers"))
def _residual_streams(graphdef, state, tokens, layers) -> Float[Array, "s b l m"]:
    model = nnx.merge(graphdef, state)
    return model.run_layers(
        model.embed(tokens), read=lambda block, x, out: x, only=layers
    ).found


def _norms(f, x, options: AnalysisOptions) -> Float[Array, "b l l"]:
    """Return norms of a map's Jacobian for each document."""
    return jnp.stack(
        [jacobian_norms(f, one, probes=options.probes, key=options.seed) for one in x]
    )
