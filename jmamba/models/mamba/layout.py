"""Configurations of checkpoints: three dialects in, one out."""

import math
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any

from jmamba.files.errors import CheckpointError
from jmamba.files.vocabulary import is_token_id
from jmamba.layers.fields import Within, check_field, fits
from jmamba.models.mamba.config import MambaConfig

MODEL_TYPES = {"mamba": "hf", "falcon_mamba": "falcon"}
"""Model type -> layout."""


_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NOTES = frozenset(
    # who wrote it, and what for
    "architectures auto_map dtype torch_dtype transformers_version tokenizer"
    " tokenizer_class author authors citation comment comments date datasets"
    " description homepage language languages license model_name name note notes"
    " pipeline_tag readme tags url version".split()
)
_HARMLESS = _NOTES | frozenset(
    # how it is run
    "use_cache"
    " return_dict output_hidden_states output_attentions torchscript"
    " prefix problem_type finetuning_task task_specific_params"
    " id2label label2id num_labels chunk_size_feed_forward use_bfloat16 tf_legacy_loss"
    " attn_implementation layer_types"
    " is_decoder is_encoder_decoder use_mambapy use_falcon_mambapy fused_add_norm"
    " use_associative_scan tie_encoder_decoder pruned_heads"
    # ids and sampling, which act outside of the model
    " sep_token_id decoder_start_token_id max_length"
    " min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty"
    " temperature top_k top_p typical_p repetition_penalty length_penalty bad_words_ids"
    " no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences"
    " forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens"
    " begin_suppress_tokens exponential_decay_length_penalty output_scores"
    " return_dict_in_generate"
    # initialisation
    " initializer_range rescale_prenorm_residual time_step_scale time_step_init_scheme"
    # doubles of the sizes, sometimes stale: the ones that win are read below
    " d_model d_inner n_layer expand ssm_cfg pad_vocab_size_multiple".split()
)
_READ = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers state_size conv_kernel"
    " intermediate_size time_step_rank use_bias use_conv_bias layer_norm_epsilon"
    " residual_in_fp32 tie_word_embeddings time_step_min time_step_max"
    " time_step_floor mixer_rms_eps definite definite_threshold"
    " equal_magnitudes unpadded_vocab_size".split()
) | set(_IDS)
_ORIGINAL = _NOTES | frozenset(
    "d_model n_layer vocab_size ssm_cfg residual_in_fp32 fused_add_norm"
    " pad_vocab_size_multiple tie_embeddings use_cache initializer_cfg"
    " unpadded_vocab_size".split()
)
_ORIGINAL_SSM = frozenset(
    "layer d_state d_conv expand dt_rank dt_min dt_max dt_init dt_scale dt_init_floor"
    " conv_bias bias use_fast_path".split()
)
_ONLY_VALUES = {  # keys that would change the maths, and what they may say
    "hidden_act": ("silu", "swish"),
    "rms_norm": (True,),
    "d_intermediate": (0,),
    "attn_layer_idx": ([], None),
    "attn_cfg": ({}, None),
    "quantization_config": (None,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "residual_in_fp32": (True, False),
    "use_bias": (True, False),
    "use_conv_bias": (True, False),
    "tie_word_embeddings": (True, False),
    "tie_embeddings": (True, False),
}
NEOX = "EleutherAI/gpt-neox-20b"
"""Where the tokenizer of the original state-spaces models is."""
_NEOX_VOCAB = (50277, 50280)  # rows used and rows padded of the released models


def owns_config(raw: Mapping[str, Any]) -> bool:
    """Say whether a config.json is a Mamba-1 or Falcon-Mamba language model's.

    The original state-spaces files name no type but a d_model.
    """
    model_type = raw.get("model_type")
    return model_type in MODEL_TYPES or (model_type is None and "d_model" in raw)


def read_config(raw: Mapping[str, Any]) -> tuple[MambaConfig, str]:
    """Return the configuration and the layout of a config.json, whatever its dialect.

    In the -hf and Falcon dialects hidden_size, num_hidden_layers, intermediate_size and
    time_step_rank win over d_model, n_layer, d_inner and expand, which released files
    carry stale. In the original dialect the vocabulary is padded to a multiple.

    Raises:
      ValueError: a size is missing, or it holds a key that is not known to leave the
        maths alone.
    """
    if raw.get("model_type") is None:
        return _from_original(raw), "original"
    return _from_hf(raw), MODEL_TYPES[raw["model_type"]]


def layout_to_write(config: MambaConfig) -> str:
    """Return the layout that transformers reads a model in."""
    return "falcon" if config.is_falcon else "hf"


def _from_hf(raw: Mapping) -> MambaConfig:
    falcon = raw["model_type"] == "falcon_mamba"
    _check_keys(raw, (_HARMLESS | _READ) - (set() if falcon else {"mixer_rms_eps"}))
    d_model = _size(raw, "d_model", "hidden_size", "d_model")
    rank = raw.get("time_step_rank", "auto")
    return MambaConfig(
        vocab_size=_size(raw, "vocab_size", "vocab_size"),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "num_hidden_layers", "n_layer"),
        d_state=_size(raw, "d_state", "state_size", default=16),
        d_conv=_size(raw, "d_conv", "conv_kernel", default=4),
        d_inner=_size(raw, "d_inner", "intermediate_size", default=0)
        or _expand(raw, d_model),
        dt_rank=0 if rank == "auto" else _size(raw, "dt_rank", "time_step_rank"),
        use_bias=_entry(raw, "use_bias", "use_bias", False),
        use_conv_bias=_entry(raw, "use_conv_bias", "use_conv_bias", True),
        norm_eps=_entry(raw, "norm_eps", "layer_norm_epsilon", 1e-5),
        mixer_rms_eps=_entry(raw, "mixer_rms_eps", "mixer_rms_eps", 1e-6)
        if falcon
        else None,
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_word_embeddings", True),
        **_ids(raw, 0),  # transformers' own where there is none
        unpadded_vocab_size=_tokens_used(raw, raw["vocab_size"]),
        dt_min=_entry(raw, "dt_min", "time_step_min", 1e-3),
        dt_max=_entry(raw, "dt_max", "time_step_max", 1e-1),
        dt_init_floor=_entry(raw, "dt_init_floor", "time_step_floor", 1e-4),
        definite=_entry(raw, "definite", "definite", "free"),
        definite_threshold=_entry(
            raw, "definite_threshold", "definite_threshold", None
        ),
        equal_magnitudes=_entry(raw, "equal_magnitudes", "equal_magnitudes", False),
    )


def _from_original(raw: Mapping) -> MambaConfig:
    _check_keys(raw, _ORIGINAL | set(_IDS))
    ssm = raw.get("ssm_cfg") or {}
    if not isinstance(ssm, Mapping):
        raise CheckpointError(f"ssm_cfg must be an object, but is {reprlib.repr(ssm)}.")
    _check_keys(ssm, _ORIGINAL_SSM, "ssm_cfg")
    if ssm.get("layer", "Mamba1") != "Mamba1":
        raise CheckpointError(
            f"the layers are {ssm['layer']!r}, but jmamba reads Mamba-1 and "
            "Falcon-Mamba."
        )
    rows = _size(raw, "vocab_size", "vocab_size")
    multiple = _size(raw, "vocab_size", "pad_vocab_size_multiple", default=8)
    padded = math.ceil(rows / multiple) * multiple
    d_model, rank = _size(raw, "d_model", "d_model"), ssm.get("dt_rank", "auto")
    neox = (
        0 if rows in _NEOX_VOCAB else None
    )  # the released models' tokenizer ends by 0
    return MambaConfig(
        vocab_size=padded,
        unpadded_vocab_size=_tokens_used(raw, padded, rows),
        d_model=d_model,
        num_layers=_size(raw, "num_layers", "n_layer"),
        d_state=_size(ssm, "d_state", "d_state", default=16),
        d_conv=_size(ssm, "d_conv", "d_conv", default=4),
        d_inner=_expand(ssm, d_model),
        dt_rank=0 if rank == "auto" else _size(ssm, "dt_rank", "dt_rank"),
        use_bias=_entry(ssm, "use_bias", "bias", False),
        use_conv_bias=_entry(ssm, "use_conv_bias", "conv_bias", True),
        residual_in_fp32=_entry(raw, "residual_in_fp32", "residual_in_fp32", True),
        tie_embeddings=_entry(raw, "tie_embeddings", "tie_embeddings", True),
        **_ids(raw, neox),
        dt_min=_entry(ssm, "dt_min", "dt_min", 1e-3),
        dt_max=_entry(ssm, "dt_max", "dt_max", 1e-1),
        dt_init_floor=_entry(ssm, "dt_init_floor", "dt_init_floor", 1e-4),
    )


def write_config(config: MambaConfig, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model, in the dialect that transformers reads.

    Args:
      config: the model.
      dtype: dtype of the stored weights.
    """
    kind = "FalconMamba" if config.is_falcon else "Mamba"
    d_inner = config.d_inner or 0
    raw = {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": "falcon_mamba" if config.is_falcon else "mamba",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": d_inner,
        "expand": max(1, d_inner // config.d_model),  # intermediate_size wins
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "time_step_rank": config.dt_rank,
        "use_bias": config.use_bias,
        "use_conv_bias": config.use_conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        **{name: _listed_id(getattr(config, name)) for name in _IDS},
        "time_step_min": config.dt_min,
        "time_step_max": config.dt_max,
        "time_step_floor": config.dt_init_floor,
        "dtype": dtype,
    }
    if config.is_falcon:
        raw["mixer_rms_eps"] = config.mixer_rms_eps
    if config.unpadded_vocab_size is not None:
        raw["unpadded_vocab_size"] = config.unpadded_vocab_size
    if config.definite != "free":  # jmamba's own; transformers refuses the weights
        raw["definite"] = config.definite
        raw["definite_threshold"] = config.definite_threshold
        raw["equal_magnitudes"] = config.equal_magnitudes
    return raw


def _check_keys(raw: Mapping, known: frozenset[str], place: str = "") -> None:
    where = f"{place} " if place else ""
    unknown = sorted(
        key for key in set(raw) - known - set(_ONLY_VALUES) if not key.startswith("_")
    )
    if unknown:
        raise CheckpointError(
            f"{where}holds keys that jmamba does not know: {', '.join(unknown)}. They "
            "may change what the model computes; remove them if you know they do not."
        )
    wrong = [
        f"{key} = {reprlib.repr(raw[key])}, needs {' or '.join(map(repr, allowed))}"
        for key, allowed in _ONLY_VALUES.items()
        if key in raw and raw[key] not in allowed
    ]
    if wrong:
        raise CheckpointError(
            f"{where}asks for something jmamba does not compute: {'; '.join(wrong)}."
        )


def _size(raw: Mapping, field: str, *names: str, default: int | None = None) -> int:
    """Return the first of the named entries that is there, a size of `MambaConfig`."""
    for name in names:
        if raw.get(name) is not None:
            if raw[name] == 0:
                raise CheckpointError(f"{name} must be an integer of 1 or more.")
            return check_field(MambaConfig, field, raw[name], name)
    if default is None:
        raise CheckpointError(f"{names[0]} is missing; add it with the model's size.")
    return default


def _entry(raw: Mapping, field: str, name: str, default: Any) -> Any:
    """Return an entry that a field of `MambaConfig` may be."""
    return check_field(MambaConfig, field, raw.get(name, default), name)


def _expand(raw: Mapping, d_model: int) -> int:
    """Return the channels of a mixer that is so many times as wide as the stream."""
    expand = raw.get("expand", 2)
    if not fits(expand, Annotated[float, Within(0, 1024, is_open=True)]):
        raise CheckpointError(
            f"expand must be a number up to 1024, but is {reprlib.repr(expand)}."
        )
    return int(expand * d_model)


def _tokens_used(raw: Mapping, rows: int, known: int | None = None) -> int | None:
    """Return how many rows of the table are tokens; None for all."""
    used = _entry(raw, "unpadded_vocab_size", "unpadded_vocab_size", None)
    if used is None:
        used = _NEOX_VOCAB[0] if rows == _NEOX_VOCAB[1] else known
    return used if used is not None and used < rows else None


def _ids(raw: Mapping, default: int | None) -> dict[str, Any]:
    """Return the ids that begin, end and fill up texts; of those that end, all."""
    found = {}
    for name in _IDS:
        value = raw.get(name, default)
        ids = value if isinstance(value, list | tuple) else [value]
        several = name == "eos_token_id" and len(ids) > 1
        wrong = [i for i in ids if i is not None and not is_token_id(i)]
        if wrong or (isinstance(value, list) and name != "eos_token_id"):
            raise CheckpointError(
                f"{name} must be the id of a token or null, but is "
                f"{reprlib.repr(value)}."
            )
        found[name] = tuple(ids) if several else ids[0] if ids else None
    return found


def _listed_id(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
