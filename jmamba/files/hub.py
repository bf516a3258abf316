"""Where a checkpoint is: a local folder, or a repository on the Hugging Face Hub."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from jmamba.files.errors import CheckpointError
from jmamba.files.weight_files import INDEX_FILES, PREFERENCE, shard_names

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def locate(path_or_id: str | os.PathLike, *, revision: str | None = None) -> Path:
    """Return the local folder of a checkpoint, downloading its weights if need be.

    What exists locally is local; anything else is a Hub id `org/name`. Only what is
    needed is downloaded: config.json and one kind of weights, safetensors before
    pickles. The Hub client's cache, progress bars, HF_HUB_OFFLINE and HF_ENDPOINT hold.

    Args:
      path_or_id: folder or Hub id.
      revision: branch, tag or commit on the Hub; None for main.

    Raises:
      CheckpointError: there is no such folder or repository, or the Hub cannot be
        reached and its files are not in the cache.
    """
    local = local_folder(path_or_id, revision=revision)
    if local is not None:
        return local
    repository = Repository(str(path_or_id), revision)
    folder = repository.fetch("config.json").parent
    for name in ("generation_config.json", "tokenizer.json"):  # what they say of tokens
        repository.fetch_optional(name)
    for name in PREFERENCE:
        file = repository.fetch_optional(name)
        if file is None:
            continue
        for shard in shard_names(file) if name in INDEX_FILES else ():
            repository.fetch(shard)
        return folder
    raise CheckpointError(
        f"{path_or_id} on the Hub holds no weights: none of {', '.join(PREFERENCE)}. "
        "If you are offline, they may only be missing from the cache."
    )


def locate_bare(
    path_or_id: str | os.PathLike,
    names: Iterable[str],
    *,
    revision: str | None = None,
    filename: str | None = None,
) -> Path:
    """Return the file or folder of a checkpoint that may have no config.json.

    Args:
      path_or_id: file, folder or Hub id.
      names: files to look for in a Hub repository without config.json, the one to
        prefer first.
      revision: branch, tag or commit on the Hub; None for main.
      filename: which file of a folder or Hub repository; None for the usual ones.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(path_or_id).expanduser()
    if path.is_file():
        return path
    local = local_folder(path_or_id, revision=revision)
    if local is not None:
        return local if filename is None else local / filename
    repository = Repository(str(path_or_id), revision)
    if filename is not None:
        return repository.fetch(filename)
    if repository.fetch_optional("config.json") is not None:
        return locate(path_or_id, revision=revision)
    names = list(names)
    for name in names:
        file = repository.fetch_optional(name)
        if file is not None:
            return file
    raise CheckpointError(
        f"{path_or_id} on the Hub holds neither config.json nor a file that was "
        f"released without one ({', '.join(names)}); give filename=..."
    )


def locate_files(
    path_or_id: str | os.PathLike, names: Iterable[str], *, revision: str | None = None
) -> dict[str, Path]:
    """Return those of the named files that a folder or Hub repository has.

    Raises:
      CheckpointError: there is no such folder or repository, or it can not be reached.
    """
    local = local_folder(path_or_id, revision=revision)
    if local is not None:
        return {name: local / name for name in names if (local / name).is_file()}
    repository = Repository(str(path_or_id), revision)
    repository.fetch("config.json")  # so that an unknown repository is said to be one
    found = {name: repository.fetch_optional(name) for name in names}
    return {name: file for name, file in found.items() if file is not None}


def local_folder(
    path_or_id: str | os.PathLike, *, revision: str | None = None
) -> Path | None:
    """Return the folder if it is one, None if the argument is a Hub id.

    Raises:
      CheckpointError: it is a file, or neither a folder nor of the form of a Hub id.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{path} is a local folder, which has no revision {revision!r}; leave "
                "revision out, or give a Hub id."
            )
        return path
    if path.exists():
        raise CheckpointError(
            f"{path} is a file; give the folder that holds it and its config.json."
        )
    if not re.fullmatch(r"[\w\-.]+/[\w\-.]+", str(path_or_id)):
        raise CheckpointError(
            f"{str(path_or_id)!r} is neither a folder here nor a Hub id of the form "
            "org/name, such as state-spaces/mamba-130m-hf."
        )
    return None


class Repository:
    """A repository on the Hub at one commit: all its files come from the same one."""

    def __init__(self, repo_id: str, revision: str | None):
        self.repo_id, self.revision = repo_id, revision

    def fetch(self, name: str) -> Path:
        """Return a file of the repository, from the cache or downloaded.

        Raises:
          CheckpointError: it is not there or cannot be had.
        """
        file = self.fetch_optional(name)
        if file is None:
            raise CheckpointError(
                f"{self.repo_id} on the Hub has no {name}, or it cannot be reached and "
                "is not in the cache. Check the id, the connection and HF_HUB_OFFLINE."
            )
        return file

    def fetch_optional(self, name: str) -> Path | None:
        """Return a file of the repository, None if it is not there.

        Raises:
          CheckpointError: the repository or revision is unknown or closed, or the
            download broke off.
        """
        from huggingface_hub import errors, hf_hub_download

        try:
            file = Path(hf_hub_download(self.repo_id, name, revision=self.revision))
        except (errors.EntryNotFoundError, errors.OfflineModeIsEnabled):
            return None
        except errors.GatedRepoError as error:
            raise CheckpointError(
                f"{self.repo_id} on the Hub asks for its terms to be accepted: do so "
                f"at https://huggingface.co/{self.repo_id}, then type hf auth login."
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"There is no folder {self.repo_id!r} here and no such repository on "
                "the Hub (or it is private: type hf auth login)."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(
                f"{self.repo_id} on the Hub has no revision {self.revision!r}; give a "
                "branch, a tag or a commit, or leave it out for main."
            ) from error
        except errors.HFValidationError as error:
            raise CheckpointError(
                f"{self.repo_id!r} is neither a folder here nor a Hub id: {error}"
            ) from error
        # the HTTP client's base class, which depends on the version of the Hub client
        except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
            raise CheckpointError(
                f"Downloading {name} of {self.repo_id} failed ({_first_line(error)}). "
                "What came is kept: repeat the command to go on from there."
            ) from error
        self.revision = file.relative_to(_snapshots(file)).parts[0]
        return file


def _snapshots(file: Path) -> Path:
    """Return the cache's folder of commits above a file."""
    return next(p for p in file.parents if p.name == "snapshots")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
