"""Names of a hybrid's tensors in transformers, layer by layer."""

from collections.abc import Mapping

from jmamba.files.keys import DEPTHWISE, SAME, TRANSPOSE, Change, Row
from jmamba.models.mixer_keys import EMBEDDING_PATH, HEAD_KEY

Names = Mapping[str, tuple[str, Change]]

BASE_PREFIX = "model."

SWIGLU = {name: name for name in ("gate_proj", "up_proj", "down_proj")}
"""Names of a feed-forward layer's three maps."""

ATTENTION_KEYS = {
    **{f"{name}_proj.weight": (f"{name}_proj.kernel", TRANSPOSE) for name in "qkvo"},
    **{f"{name}_proj.bias": (f"{name}_proj.bias", SAME) for name in "qkvo"},
}
"""Tensor of an attention mixer -> its parameter, and how it changes."""


DELTA_KEYS = {
    "conv1d.weight": ("conv1d.weight", DEPTHWISE),
    "A_log": ("A_log", SAME),
    "dt_bias": ("dt_bias", SAME),
    "o_norm.weight": ("norm.scale", SAME),
    "o_proj.weight": ("out_proj.kernel", TRANSPOSE),
}
"""The same of what all gated delta nets have."""


def layer_row(key: str, name: str, *aliases: str, change: Change = SAME) -> Row:
    """Return the row of a tensor that layers have.

    Args:
      key: its name in a layer.
      name: of the parameter in a layer.
      *aliases: other names that it may have.
      change: how the tensor changes.
    """
    others = tuple(f"model.layers.{{}}.{alias}" for alias in aliases)
    path = ("layers", *name.split("."))
    return Row(f"model.layers.{{}}.{key}", path, change, others)


def under(
    prefix: str, mixer: Names, own: str = "mixer"
) -> dict[str, tuple[str, Change]]:
    """Return the names of a mixer's tensors below a prefix, and our own below another.

    Args:
      prefix: of the tensors.
      mixer: tensor -> parameter, and how it changes.
      own: prefix of the parameters.
    """
    return {
        f"{prefix}.{key}": (f"{own}.{name}", change)
        for key, (name, change) in mixer.items()
    }


def linear_keys(prefix: str, names: Mapping[str, str]) -> dict[str, tuple[str, Change]]:
    """Return the names of weights and biases of a feed-forward layer's maps.

    Args:
      prefix: of the tensors.
      names: of the maps -> our own.
    """
    own = {f"{prefix}.{key}": f"feed_forward.{name}" for key, name in names.items()}
    weights = {f"{key}.weight": (f"{own[key]}.kernel", TRANSPOSE) for key in own}
    return weights | {f"{key}.bias": (f"{own[key]}.bias", SAME) for key in own}


def expert_keys(prefix: str, *, router: str) -> dict[str, tuple[str, Change]]:
    """Return the names of a layer of experts, whose maps are stored one by one.

    Args:
      prefix: of the tensors.
      router: name of the map that chooses.
    """
    maps = {
        f"{prefix}.experts.{{}}.{name}.weight": (
            f"feed_forward.experts.{name}",
            TRANSPOSE,
        )
        for name in SWIGLU
    }
    return {
        f"{prefix}.{router}.weight": ("feed_forward.router.kernel", TRANSPOSE)
    } | maps


def hybrid_table(layer: Names, final_norm: str = "model.norm") -> tuple[Row, ...]:
    """Return the key table of a hybrid language model.

    Args:
      layer: tensor of its layers -> parameter of a layer, and how it changes.
      final_norm: name of the last norm.
    """
    rows = (
        layer_row(key, name, change=change) for key, (name, change) in layer.items()
    )
    return (
        Row("model.embed_tokens.weight", EMBEDDING_PATH),
        *rows,
        Row(f"{final_norm}.weight", ("norm_f", "scale")),
        Row(HEAD_KEY, ("lm_head",), TRANSPOSE),
    )
