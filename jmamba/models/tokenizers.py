"""The tokenizer of a checkpoint."""

import os
from pathlib import Path

from jmamba.files.adapters import explain_adapter
from jmamba.files.errors import CheckpointError
from jmamba.files.folders import ADAPTER_CONFIG, TOKENIZER_FILES, read_json
from jmamba.files.hub import locate_files
from jmamba.files.tokenizer import BYTES, ByteTokenizer, FileTokenizer, Tokenizer
from jmamba.models.architecture import registered


def load_tokenizer(
    path_or_id: str | os.PathLike, *, revision: str | None = None
) -> Tokenizer:
    """Return the tokenizer of a checkpoint.

    Args:
      path_or_id: folder or Hub id of the checkpoint.
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
    names = ("config.json", ADAPTER_CONFIG, *TOKENIZER_FILES)
    files = locate_files(path_or_id, names, revision=revision)
    raw = read_json(files["config.json"]) if "config.json" in files else {}
    if raw.get("tokenizer") == BYTES:
        return ByteTokenizer()
    for architecture in (one for one in registered() if one.owns and one.owns(raw)):
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
    return FileTokenizer(files["tokenizer.json"], _eos_id(raw, files))


def _eos_id(raw: dict, files: dict[str, Path]) -> int | None:
    ids = raw.get("eos_token_id")
    found = ids[0] if isinstance(ids, list) and ids else ids
    if isinstance(found, int):
        return found
    if "tokenizer_config.json" not in files:
        return None
    token = read_json(files["tokenizer_config.json"]).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    vocabulary = read_json(files["tokenizer.json"]).get("added_tokens", [])
    return next(
        (entry["id"] for entry in vocabulary if entry["content"] == token), None
    )
