"""Names of an OLMo-hybrid language model's tensors."""

from jmamba.files.keys import DEPTHWISE, SAME, TRANSPOSE, Row
from jmamba.layers.gated_delta import MAPS
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    DELTA_KEYS,
    SWIGLU,
    hybrid_table,
    layer_row,
    linear_keys,
    under,
)

_MAPS = dict(zip("qkvgab", MAPS, strict=True))
_DELTA = {key: change for key, change in DELTA_KEYS.items() if "conv1d" not in key}
_DELTA |= {
    f"{letter}_proj.weight": (f"{name}.kernel", TRANSPOSE)
    for letter, name in _MAPS.items()
}
_NORMS = {f"{name}_norm.weight": (f"{name}_norm.scale", SAME) for name in "qk"}

_TABLE = hybrid_table(
    {
        **under("linear_attn", _DELTA),
        **under("self_attn", {**ATTENTION_KEYS, **_NORMS}),
        "post_feedforward_layernorm.weight": ("feed_forward.out_norm.scale", SAME),
        **linear_keys("mlp", SWIGLU),
    }
)
_FURTHER = (
    layer_row("attention_layer_norm.weight", "norm.scale", "input_layernorm.weight"),
    layer_row(
        "feedforward_layer_norm.weight",
        "feed_forward.norm.scale",
        "post_attention_layernorm.weight",
    ),
    # in blocks of attention the same name is of the norm behind the mixer
    layer_row(
        "post_attention_layernorm.weight",
        "mixer.out_norm.scale",
        "feedforward_layer_norm.weight",
    ),
)
_CONVOLUTIONS = tuple(
    layer_row(
        f"linear_attn.{letter}_conv1d.weight",
        "mixer.conv1d.weight",
        change=DEPTHWISE,
    )._replace(like=(_MAPS[letter], "kernel"))
    for letter in "qkv"
)

OLMO_HYBRID_TABLES: dict[str, tuple[Row, ...]] = {
    "hf": (*_TABLE, *_FURTHER, *_CONVOLUTIONS)
}
"""Layout -> table. The convolution lies in three tensors; transformers 5 writes them of
equal size, others as many rows as there are queries, keys and values: both are read."""
