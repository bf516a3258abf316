"""Names of a Falcon-H1 language model's tensors."""

from jmamba.files.keys import SAME
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    SWIGLU,
    hybrid_table,
    linear_keys,
    under,
)
from jmamba.models.mixer_keys import HEADS_KEYS

FALCON_H1_TABLES = {
    "hf": hybrid_table(
        {
            "input_layernorm.weight": ("norm.scale", SAME),
            **under("mamba", HEADS_KEYS, "mixer.recurrent"),
            **under("self_attn", ATTENTION_KEYS, "mixer.attention"),
            "pre_ff_layernorm.weight": ("feed_forward.norm.scale", SAME),
            **linear_keys("feed_forward", SWIGLU),
        },
        "model.final_layernorm",
    )
}
"""Layout -> table."""
