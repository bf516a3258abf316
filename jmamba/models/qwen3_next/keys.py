"""Names of a Qwen3-Next language model's tensors."""

from jmamba.files.keys import SAME, TRANSPOSE
from jmamba.models.hybrid.keys import (
    ATTENTION_KEYS,
    DELTA_KEYS,
    SWIGLU,
    expert_keys,
    hybrid_table,
    linear_keys,
    under,
)

_DELTA = {
    **{key: DELTA_KEYS[key] for key in ("conv1d.weight", "A_log", "dt_bias")},
    "in_proj_qkvz.weight": ("qkvz_proj.kernel", TRANSPOSE),
    "in_proj_ba.weight": ("ba_proj.kernel", TRANSPOSE),
    "norm.weight": ("norm.scale", SAME),
    "out_proj.weight": ("out_proj.kernel", TRANSPOSE),
}
_NORMS = {f"{name}_norm.weight": (f"{name}_norm.scale", SAME) for name in "qk"}
_SHARED = {
    f"mlp.shared_expert.{name}.weight": (
        f"feed_forward.shared.{name}.kernel",
        TRANSPOSE,
    )
    for name in SWIGLU
}

QWEN3_NEXT_TABLES = {
    "hf": hybrid_table(
        {
            "input_layernorm.weight": ("norm.scale", SAME),
            **under("linear_attn", _DELTA),
            **under("self_attn", {**ATTENTION_KEYS, **_NORMS}),
            "post_attention_layernorm.weight": ("feed_forward.norm.scale", SAME),
            **linear_keys("mlp", SWIGLU),
            **expert_keys("mlp", router="gate"),
            **_SHARED,
            "mlp.shared_expert_gate.weight": (
                "feed_forward.shared_gate.kernel",
                TRANSPOSE,
            ),
        }
    )
}
"""Layout -> table."""
