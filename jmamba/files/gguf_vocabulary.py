"""Tokenizers in GGUF files: what llama.cpp reads of them, and how they come back.

llama.cpp splits a text by rules that it has names for, and merges what they leave by
the file's own list. Bytes are a vocabulary of 256 letters that merge nothing.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.folders import TOKENIZER
from jmamba.files.gguf_files import read_entries, read_list
from jmamba.files.json_files import read_json
from jmamba.files.tokenizer import (
    BYTES,
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    byte_alphabet,
)
from jmamba.files.untrusted import reading

OWN = "jmamba.tokenizer"
WHOLE = "tokenizer.huggingface.json"
"""Entry of a whole tokenizer.json, which llama.cpp leaves alone."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""What llama.cpp calls kinds of tokens."""

GPT2_RULES = ("gpt-2", "olmo", "mpt", "phi-2")
"""Names of the rule by which GPT-2 and GPT-NeoX split texts."""

_NEVER = "▁ ▁"  # a list of merges must hold one; no byte is written by this letter
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
_LOGGER = logging.getLogger("jmamba")


def describe_vocabulary(
    tokenizer: Path | None, rows: int, ends: Sequence[int] = (), *, is_bytes: bool
) -> dict[str, Any]:
    """Return the metadata of a tokenizer; of one without a rule a line of the log says.

    Args:
      tokenizer: a tokenizer.json; None if there is none.
      rows: of the model's table.
      ends: ids that end a text.
      is_bytes: whether tokens are bytes.

    Raises:
      CheckpointError: the file cannot be read.

    Examples:
      >>> found = describe_vocabulary(None, 258, [256], is_bytes=True)
      >>> found["tokenizer.ggml.tokens"][97:99], found["tokenizer.ggml.tokens"][-2:]
      (['a', 'b'], ['<|256|>', '[PAD257]'])
    """
    if is_bytes:
        tokens = dict(enumerate(byte_alphabet()))
        added = {i: (f"<|{i}|>", CONTROL) for i in ends if i >= len(tokens)}
        rule, merges = GPT2_RULES[0], [_NEVER]
        return {OWN: BYTES, **_listed(tokens, added, merges, rule, rows)}
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    described = read_json(tokenizer)
    whole = {WHOLE: tokenizer.read_text(encoding="utf-8")}
    with reading(tokenizer, "is no tokenizer"):
        rule = _splitting_rule(described)
        if rule is None:
            _LOGGER.warning(
                "%s: llama.cpp has no rule for this tokenizer that jmamba knows; the "
                "file gives it none, so that it takes ids of tokens, no texts.",
                tokenizer,
            )
            return {"tokenizer.ggml.model": "none", **whole}
        tokens = {i: token for token, i in described["model"]["vocab"].items()}
        merges = [
            pair if isinstance(pair, str) else " ".join(pair)
            for pair in described["model"]["merges"]
        ]
        added = {
            one["id"]: (one["content"], CONTROL if one["special"] else USER_DEFINED)
            for one in described.get("added_tokens") or ()
        }
        found = _listed(tokens, added, merges or [_NEVER], rule, rows)
        begins = _begins_texts(FileTokenizer(tokenizer))
    return found | whole | {"tokenizer.ggml.add_bos_token": begins}


def _listed(
    tokens: dict[int, str],
    added: dict[int, tuple[str, int]],
    merges: list[str],
    rule: str,
    rows: int,
) -> dict[str, Any]:
    """Return the entries of a vocabulary, of one token for each row of the table."""
    kinds = {i: (token, NORMAL) for i, token in tokens.items()} | added
    every = [kinds.get(i, (f"[PAD{i}]", UNUSED)) for i in range(rows)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": [token for token, _ in every],
        "tokenizer.ggml.token_type": [kind for _, kind in every],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }


def _splitting_rule(described: dict[str, Any]) -> str | None:
    """Return llama.cpp's name of how a tokenizer splits texts; None if it has none."""
    splitter = described.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers") or [splitter]
    is_plain = described["model"].get("type", "BPE") == "BPE" and not (
        described.get("normalizer") or described["model"].get("byte_fallback")
    )
    whole = [step for step in steps if step.get("type") == "ByteLevel"]
    if not is_plain or len(whole) != 1 or whole[0].get("add_prefix_space", True):
        return None
    if not whole[0].get("use_regex", True):
        return None
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return GPT2_RULES[0]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "refact"
    if kinds == ["Punctuation", "ByteLevel", "Digits", "Split"]:
        threes = steps[3].get("pattern") == {"Regex": "[0-9][0-9][0-9]"}
        return "falcon" if threes else None
    return None


def _begins_texts(tokenizer: FileTokenizer) -> bool:
    """Say whether a tokenizer puts a token before each text."""
    return len(tokenizer.encode("a")) > 1 and "a" not in tokenizer.pieces(
        tokenizer.encode("a")[:1]
    )


def read_vocabulary(file: Path, ends: tuple[int, ...]) -> Tokenizer:
    """Return the tokenizer of a GGUF file.

    Args:
      file: the file.
      ends: ids that end a text.

    Raises:
      CheckpointError: the file has none, or none that is read.
    """
    found = _find_vocabulary(file)
    if found == BYTES:
        return ByteTokenizer(ends)
    if found is None:
        kind = read_entries(file).get("tokenizer.ggml.model")
        rule = read_entries(file).get("tokenizer.ggml.pre")
        raise CheckpointError(
            f"{file} has a tokenizer of the kind {kind!r} that splits texts by {rule!r}"
            ", which jmamba does not read. Give the checkpoint that the file was made "
            "of."
        )
    with reading(file, "holds no tokenizer that can be read"):
        return FileTokenizer(file, ends, json.loads(found))


def copy_vocabulary(file: Path, folder: Path) -> dict[str, Any]:
    """Write the tokenizer.json of a GGUF file; return what config.json is to say.

    Args:
      file: the file.
      folder: where to.
    """
    found = _find_vocabulary(file)
    if found == BYTES:
        return {"tokenizer": BYTES}
    if found is not None:
        (folder / TOKENIZER).write_text(found, encoding="utf-8")
    return {}


def _find_vocabulary(file: Path) -> str | None:
    """Return "bytes", or what tokenizer.json says; None for another tokenizer."""
    metadata = read_entries(file)
    if metadata.get(OWN) == BYTES:
        return BYTES
    if WHOLE in metadata:
        return str(metadata[WHOLE])
    rule = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or rule not in GPT2_RULES:
        return None
    with reading(file, "holds no tokenizer that can be read"):
        return json.dumps(_rebuild(file))


def _rebuild(file: Path) -> dict[str, Any]:
    """Return the tokenizer.json that a file's vocabulary amounts to."""
    tokens = read_list(file, "tokenizer.ggml.tokens")
    kinds = read_list(file, "tokenizer.ggml.token_type")
    merges = read_list(file, "tokenizer.ggml.merges")
    every = list(zip(tokens, kinds, strict=True))
    added = [
        {
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            "id": i,
            "content": token,
            "special": kind == CONTROL,
        }
        for i, (token, kind) in enumerate(every)
        if kind in (CONTROL, USER_DEFINED)
    ]
    vocabulary = {token: i for i, (token, kind) in enumerate(every) if kind != UNUSED}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": _BYTE_LEVEL | {"use_regex": True},
        "decoder": _BYTE_LEVEL | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
