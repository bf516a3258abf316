"""The tokenizer of a checkpoint."""

import os
from pathlib import Path

from jmamba.files.adapters import explain_adapter
from jmamba.files.errors import CheckpointError
from jmamba.files.folders import (
    ADAPTER_CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_FILES,
)
from jmamba.files.gguf_files import is_gguf
from jmamba.files.gguf_vocabulary import read_vocabulary
from jmamba.files.hub import locate_files
from jmamba.files.json_files import read_json
from jmamba.files.tokenizer import BYTES, ByteTokenizer, FileTokenizer, Tokenizer
from jmamba.files.untrusted import as_path, reading
from jmamba.files.vocabulary import end_tokens
from jmamba.models.architecture import owners
from jmamba.models.gguf import read_gguf_settings


def load_tokenizer(
    path_or_id: str | os.PathLike, *, revision: str | None = None
) -> Tokenizer:
    """Return the tokenizer of a checkpoint.

    Args:
      path_or_id: folder, GGUF file or Hub id of the checkpoint.
      revision: branch, tag or commit on the Hub.

    Raises:
      CheckpointError: the checkpoint, or its tokenizer, is not there or is damaged.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "config.json").write_text('{"tokenizer": "bytes"}')
      ...     load_tokenizer(folder).encode("hi")
      [104, 105]
    """
    place = as_path(path_or_id)
    if is_gguf(place):
        return read_vocabulary(place, end_tokens(read_gguf_settings(place)))
    names = ("config.json", ADAPTER_CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES)
    files = locate_files(path_or_id, names, revision=revision)
    raw = read_json(files["config.json"]) if "config.json" in files else {}
    generation = files.get(GENERATION_CONFIG)
    ends = end_tokens(raw, None if generation is None else read_json(generation))
    if raw.get("tokenizer") == BYTES:
        return ByteTokenizer(ends)
    for architecture in owners(raw, str(path_or_id)):
        model = architecture.model_class
        if model.reads != "tokens":
            raise CheckpointError(
                f"{path_or_id} is a {model.__name__}, which reads {model.reads} and "
                "has no tokenizer: type jmamba explain IMAGE.png, or load it with "
                f"{model.__name__}.from_pretrained."
            )
        elsewhere = architecture.tokenizer_of(raw)
        if elsewhere is not None and "tokenizer.json" not in files:
            files |= locate_files(elsewhere, TOKENIZER_FILES)
    if "tokenizer.json" not in files and ADAPTER_CONFIG in files:
        raise explain_adapter(files[ADAPTER_CONFIG].parent)
    if "tokenizer.json" not in files:
        raise CheckpointError(
            f"{path_or_id} holds no tokenizer.json. Copy the one of the model into the "
            'folder, or, if its tokens are bytes, write "tokenizer": "bytes" into '
            "config.json."
        )
    return FileTokenizer(files["tokenizer.json"], ends or _own_ends(files))


def _own_ends(files: dict[str, Path]) -> tuple[int, ...]:
    """Return the ids that end a text to the tokenizer; () if it does not say."""
    if "tokenizer_config.json" not in files:
        return ()
    token = read_json(files["tokenizer_config.json"]).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    file = files["tokenizer.json"]
    vocabulary = read_json(file).get("added_tokens") or []
    with reading(file, "is no tokenizer"):
        ids = [entry["id"] for entry in vocabulary if entry["content"] == token]
        return end_tokens({"eos_token_id": ids})
