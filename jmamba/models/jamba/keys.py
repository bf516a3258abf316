"""Names of a Jamba language model's tensors."""

from jmamba.files.keys import SAME
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    SWIGLU,
    expert_keys,
    hybrid_table,
    linear_keys,
    under,
)
from jmamba.models.mixer_keys import MIXER_KEYS

_NORMS = {
    f"{name.lower()}_layernorm.weight": (f"{name}_norm.scale", SAME)
    for name in ("dt", "B", "C")
}

JAMBA_TABLES = {
    "hf": hybrid_table(
        {
            "input_layernorm.weight": ("norm.scale", SAME),
            **under("mamba", {**MIXER_KEYS, **_NORMS}),
            **under("self_attn", ATTENTION_KEYS),
            "pre_ff_layernorm.weight": ("feed_forward.norm.scale", SAME),
            **linear_keys("feed_forward", SWIGLU),
            **expert_keys("feed_forward", router="router"),
        },
        "model.final_layernorm",
    )
}
"""Layout -> table."""
