"""Names of the files that a checkpoint's folder consists of."""

from fnmatch import fnmatch

GENERATION_CONFIG = "generation_config.json"
"""Where transformers keeps how a model generates, all ids that end a text among it."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""Files of a tokenizer that are read."""

TEMPLATES = "additional_chat_templates"
"""Folder of further chat templates, *.jinja."""

TEXT_FILES = (
    *TOKENIZER_FILES,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that transformers reads a tokenizer from, chat templates among them."""

PARAMETERS = "parameters"
"""Orbax's own folder."""

MODEL_FILES = (
    "config.json",
    GENERATION_CONFIG,
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    PARAMETERS,
)
"""Patterns of what a model is written to, in any layout."""


def is_of_checkpoint(name: str) -> bool:
    """Say whether a file or folder of a checkpoint is written anew with it.

    Examples:
      >>> [is_of_checkpoint(name) for name in ("model.safetensors", "notes.txt")]
      [True, False]
    """
    return any(fnmatch(name, part) for part in (*MODEL_FILES, *TEXT_FILES, TEMPLATES))
