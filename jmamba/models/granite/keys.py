"""Names of a Granite 4 H language model's tensors."""

from jmamba.files.keys import SAME, TRANSPOSE, TRANSPOSE_EACH
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    hybrid_table,
    layer_row,
    linear_keys,
    under,
)
from jmamba.models.mixer_keys import HEADS_KEYS

_SHARED = {"input_linear": "gate_up", "output_linear": "down_proj"}
_EXPERTS = {
    f"block_sparse_moe.{key}.weight": (f"feed_forward.experts.{name}", TRANSPOSE_EACH)
    for key, name in _SHARED.items()
}
_EXPERTS["block_sparse_moe.router.layer.weight"] = (
    "feed_forward.router.kernel",
    TRANSPOSE,
)

GRANITE_TABLES = {
    "hf": hybrid_table(
        {
            "input_layernorm.weight": ("norm.scale", SAME),
            **under("mamba", HEADS_KEYS),
            **under("self_attn", ATTENTION_KEYS),
            "post_attention_layernorm.weight": ("feed_forward.norm.scale", SAME),
            **linear_keys("shared_mlp", _SHARED),
            **_EXPERTS,
        }
    )
    + tuple(  # the same beside experts
        layer_row(
            f"shared_mlp.{key}.weight",
            f"feed_forward.shared.{name}.kernel",
            change=TRANSPOSE,
        )
        for key, name in _SHARED.items()
    )
}
"""Layout -> table."""
