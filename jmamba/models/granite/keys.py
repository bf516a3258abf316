"""Names of a Granite 4 H language model's tensors."""

from jmamba.files.keys import SAME
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    hybrid_table,
    linear_keys,
    under,
)
from jmamba.models.mixer_keys import HEADS_KEYS

GRANITE_TABLES = {
    "hf": hybrid_table(
        {
            "input_layernorm.weight": ("norm.scale", SAME),
            **under("mamba", HEADS_KEYS),
            **under("self_attn", ATTENTION_KEYS),
            "post_attention_layernorm.weight": ("feed_forward.norm.scale", SAME),
            **linear_keys(
                "shared_mlp", {"input_linear": "gate_up", "output_linear": "down_proj"}
            ),
        }
    )
}
"""Layout -> table."""
