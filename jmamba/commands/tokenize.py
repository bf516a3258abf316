"""The command `jmamba tokenize`: texts as tokens on disk, to train on."""

from pathlib import Path
from typing import Annotated

import typer

from jmamba.commands.stages import stages
from jmamba.files.folders import new_folder
from jmamba.files.token_files import SHARD_TOKENS, write_tokens
from jmamba.files.tokenizer import (
    BYTES,
    ByteTokenizer,
    FileTokenizer,
    copy_tokenizer,
)
from jmamba.files.untrusted import as_path
from jmamba.models.tokenizers import load_tokenizer
from jmamba.training.documents import tokenize_files


def tokenize_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help='Texts, plain or .gz; of .jsonl the "text" of each line.',
            parser=as_path,
            metavar="FILES...",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder to make.", parser=as_path, metavar="PATH"),
    ],
    tokenizer: Annotated[
        str, typer.Option(help="bytes, a tokenizer.json, a checkpoint or a Hub id.")
    ] = BYTES,
    shard_tokens: Annotated[
        int, typer.Option(help="Tokens of a file, about.", min=1)
    ] = SHARD_TOKENS,
) -> None:
    """Turn texts into tokens on disk, which jmamba train reads.

    Each file is a document, of .jsonl each line is. Tokens lie in shards that are read
    where they are, in the smallest whole numbers that hold them, with checksums.
    """
    reader = _open_tokenizer(tokenizer)
    with new_folder(out, overwrite=False) as folder, stages() as show:
        show("tokenizing", 0, 1)
        if tokenizer != BYTES:
            copy_tokenizer(_folder_of(tokenizer), folder)
        index = write_tokens(
            tokenize_files(files, reader),
            folder,
            vocab_size=reader.vocab_size,
            tokenizer=BYTES if isinstance(reader, ByteTokenizer) else None,
            shard_tokens=shard_tokens,
        )
    typer.echo(
        f"{index['tokens']:,} tokens of {index['documents']:,} documents in "
        f"{len(index['shards'])} shards. Try: jmamba train {out} --out my-model"
    )


def _open_tokenizer(name: str) -> ByteTokenizer | FileTokenizer:
    """Return a tokenizer by what `--tokenizer` says."""
    if name == BYTES:
        return ByteTokenizer()
    if Path(name).is_file():
        return FileTokenizer(Path(name))
    found = load_tokenizer(name)
    assert isinstance(found, ByteTokenizer | FileTokenizer)
    return found


def _folder_of(name: str) -> str:
    """Return where the files of a tokenizer are."""
    return str(Path(name).parent) if Path(name).is_file() else name
