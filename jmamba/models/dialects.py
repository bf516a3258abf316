"""Entries of a config.json that another library wrote, known and checked one by one."""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any

from jmamba.files.errors import CheckpointError
from jmamba.files.vocabulary import is_token_id
from jmamba.layers.fields import Within, check_field, fits

NEOX = "EleutherAI/gpt-neox-20b"
"""Where the tokenizer of the original state-spaces models is."""

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
NOTES = frozenset(
    "architectures auto_map dtype torch_dtype transformers_version tokenizer"
    " tokenizer_class author authors citation comment comments date datasets"
    " description homepage language languages license model_name name note notes"
    " pipeline_tag readme tags url version".split()
)
"""Keys that say who wrote a file, and what for."""

HARMLESS = NOTES | frozenset(
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
"""Those, and keys that do not change what a model computes."""

ONLY_VALUES = {
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
"""Keys that would change the maths -> what they may say."""


def check_entries(raw: Mapping, known: frozenset[str], place: str = "") -> None:
    """Raise if entries are unknown, or ask for something that is not computed.

    Args:
      raw: what the file says.
      known: keys that are read, or do no harm.
      place: where in the file they stand.

    Raises:
      CheckpointError: some are.
    """
    where = f"{place} " if place else ""
    unknown = sorted(
        key for key in set(raw) - known - set(ONLY_VALUES) if not key.startswith("_")
    )
    if unknown:
        raise CheckpointError(
            f"{where}holds keys that jmamba does not know: {', '.join(unknown)}. They "
            "may change what the model computes; remove them if you know they do not."
        )
    wrong = [
        f"{key} = {reprlib.repr(raw[key])}, needs {' or '.join(map(repr, allowed))}"
        for key, allowed in ONLY_VALUES.items()
        if key in raw and raw[key] not in allowed
    ]
    if wrong:
        raise CheckpointError(
            f"{where}asks for something jmamba does not compute: {'; '.join(wrong)}."
        )


def read_size(
    config_class: type,
    raw: Mapping,
    field: str,
    *names: str,
    default: int | None = None,
) -> int:
    """Return the first of the named entries that is there, a size of a configuration.

    Args:
      config_class: the configuration's.
      raw: what the file says.
      field: the configuration's field.
      *names: of the entry.
      default: where there is none; None to raise.

    Raises:
      CheckpointError: there is none, or it is 0.
      ValueError: the field may not be this.
    """
    for name in names:
        if raw.get(name) is not None:
            if raw[name] == 0:
                raise CheckpointError(f"{name} must be an integer of 1 or more.")
            return check_field(config_class, field, raw[name], name)
    if default is None:
        raise CheckpointError(f"{names[0]} is missing; add it with the model's size.")
    return default


def read_entry(
    config_class: type, raw: Mapping, field: str, name: str, default: Any
) -> Any:
    """Return an entry that a field of a configuration may be.

    Args:
      config_class: the configuration's.
      raw: what the file says.
      field: the configuration's field.
      name: of the entry.
      default: where it is not there.
    """
    return check_field(config_class, field, raw.get(name, default), name)


def read_expand(raw: Mapping, d_model: int) -> int:
    """Return the channels of a mixer that is so many times as wide as the stream."""
    expand = raw.get("expand", 2)
    if not fits(expand, Annotated[float, Within(0, 1024, is_open=True)]):
        raise CheckpointError(
            f"expand must be a number up to 1024, but is {reprlib.repr(expand)}."
        )
    return int(expand * d_model)


def tokens_used(
    config_class: type,
    raw: Mapping,
    rows: int,
    released: tuple[int, int],
    known: int | None = None,
) -> int | None:
    """Return how many rows of the table are tokens; None for all.

    Args:
      config_class: the configuration's.
      raw: what the file says.
      rows: of the table.
      released: rows that are tokens, and all rows, of the released models.
      known: tokens, as far as the file says.
    """
    name = "unpadded_vocab_size"
    used = read_entry(config_class, raw, name, name, None)
    if used is None:
        used = released[0] if rows == released[1] else known
    return used if used is not None and used < rows else None


def read_ids(raw: Mapping, defaults: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the ids that begin, end and fill up texts; of those that end, all.

    Args:
      raw: what the file says.
      defaults: of each id, where it is not there.

    Raises:
      CheckpointError: one is no id.
    """
    found = {}
    for name in IDS:
        value = raw.get(name, defaults[name])
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


def listed_id(value: Any) -> Any:
    """Return ids as they are written: several as a list."""
    return list(value) if isinstance(value, tuple) else value


def layer_kind(raw: Mapping) -> Any:
    """Return the kind of layers that an original state-spaces file is about.

    Examples:
      >>> layer_kind({"d_model": 8}), layer_kind({"ssm_cfg": {"layer": "Mamba2"}})
      ('Mamba1', 'Mamba2')
    """
    ssm = raw.get("ssm_cfg")
    return ssm.get("layer", "Mamba1") if isinstance(ssm, Mapping) else "Mamba1"


def read_ssm(raw: Mapping) -> Mapping:
    """Return the entries of the layers in an original state-spaces file.

    Raises:
      CheckpointError: they are no object.
    """
    ssm = raw.get("ssm_cfg") or {}
    if not isinstance(ssm, Mapping):
        raise CheckpointError(f"ssm_cfg must be an object, but is {reprlib.repr(ssm)}.")
    return ssm


def released_tokenizer(raw: Mapping) -> str | None:
    """Return where the tokenizer is of an original file; None for any other file."""
    return None if "model_type" in raw else NEOX


def names_classifier(raw: Mapping) -> bool:
    """Say whether a file is of a classifier of texts, by its "architectures".

    Examples:
      >>> names_classifier({"architectures": ["MambaForSequenceClassification"]})
      True
    """
    kinds = raw.get("architectures")
    kinds = kinds if isinstance(kinds, list | tuple) else ()
    return any(str(kind).endswith("ForSequenceClassification") for kind in kinds)
