"""Where a checkpoint is: a local folder, or a repository on the Hugging Face Hub."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from jmamba.files.errors import CheckpointError
from jmamba.files.exchange import recover
from jmamba.files.folders import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GENERATION_CONFIG,
    TEMPLATES,
    TOKENIZER,
)
from jmamba.files.gguf_files import is_gguf
from jmamba.files.untrusted import as_path, first_line
from jmamba.files.weight_files import INDEX_FILES, PREFERENCE, shard_names


def locate(path_or_id: str | os.PathLike, *, revision: str | None = None) -> Path:
    """Return the local folder of a checkpoint, downloading its weights if need be.

    What exists locally is local; anything else is a Hub id `org/name`. Only what is
    needed is downloaded: config.json and one kind of weights, safetensors before
    pickles. The Hub client's cache, progress bars, HF_HUB_OFFLINE and HF_ENDPOINT hold.

    Args:
      path_or_id: folder, GGUF file or Hub id.
      revision: branch, tag or commit on the Hub; None for main.

    Raises:
      CheckpointError: there is no such folder or repository, or the Hub cannot be
        reached and its files are not in the cache.
    """
    if is_gguf(as_path(path_or_id)):
        return as_path(path_or_id)
    local = local_folder(path_or_id, revision=revision)
    if local is not None:
        return local
    repository = Repository(str(path_or_id), revision)
    config = repository.fetch_optional("config.json")
    for name in PREFERENCE if config is not None else ():
        file = repository.fetch_optional(name)
        if file is None:
            continue
        for shard in shard_names(file) if name in INDEX_FILES else ():
            repository.fetch(shard)
        for name in (GENERATION_CONFIG, TOKENIZER):  # what they say of tokens
            repository.fetch_optional(name)
        return file.parent
    adapter = _fetch_adapter(repository)
    if adapter is not None:
        return adapter
    if config is None:
        raise repository.lacks("config.json")
    raise repository.lacks("weights", f": none of {', '.join(PREFERENCE)}")


def _fetch_adapter(repository: "Repository") -> Path | None:
    """Return the folder of an adapter; None if a repository holds none."""
    config = repository.fetch_optional(ADAPTER_CONFIG)
    if config is None:
        return None
    if all(repository.fetch_optional(name) is None for name in ADAPTER_WEIGHTS):
        raise repository.lacks(" or ".join(ADAPTER_WEIGHTS))
    return config.parent


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
    path = as_path(path_or_id)
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
    adapter = _fetch_adapter(repository)
    if adapter is not None:
        return adapter
    raise repository.lacks(
        "config.json",
        ", and no file that was released without one "
        f"({', '.join(names)}). If its weights have another name, download them and "
        "give the file, or give filename=... to from_pretrained in Python",
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
    configs = ("config.json", ADAPTER_CONFIG)
    if all(repository.fetch_optional(name) is None for name in configs):
        raise repository.lacks("config.json")  # also if the repository is unknown
    found = {name: repository.fetch_optional(name) for name in names}
    return {name: file for name, file in found.items() if file is not None}


def locate_templates(
    path_or_id: str | os.PathLike, *, revision: str | None = None
) -> dict[str, Path]:
    """Return the further chat templates that a folder or Hub repository has.

    Raises:
      CheckpointError: there is no such folder or repository.
    """
    folder = local_folder(path_or_id, revision=revision)
    if folder is None:
        repository = Repository(str(path_or_id), revision)
        return repository.fetch_folder(TEMPLATES)
    found = folder.glob(f"{TEMPLATES}/*.jinja")
    return {f"{TEMPLATES}/{file.name}": file for file in found if file.is_file()}


def local_folder(
    path_or_id: str | os.PathLike, *, revision: str | None = None
) -> Path | None:
    """Return the folder if it is one, None if the argument is a Hub id.

    Raises:
      CheckpointError: it is a file, or neither a folder nor of the form of a Hub id.
    """
    path = as_path(path_or_id)
    recover(path)  # should its last writer have been killed
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
        self.unreachable: str | None = None
        """Why the Hub could not be asked; None as long as it could."""

    def fetch(self, name: str) -> Path:
        """Return a file of the repository, from the cache or downloaded.

        Raises:
          CheckpointError: it is not there or cannot be had.
        """
        file = self.fetch_optional(name)
        if file is None:
            raise self.lacks(name)
        return file

    def lacks(self, what: str, details: str = "") -> CheckpointError:
        """Return the error that something was not found, and why it may be so."""
        if self.unreachable is None:
            return CheckpointError(f"{self.repo_id} on the Hub has no {what}{details}.")
        return CheckpointError(
            f"{self.repo_id} is no folder here, not all of it is in the cache (no "
            f"{what}), and {self.unreachable} Or copy the model's folder "
            "here and give its path."
        )

    def fetch_folder(self, name: str) -> dict[str, Path]:
        """Return the files of a folder of the repository, {} if there is none.

        Where the Hub cannot be asked, those that the cache holds.
        """
        from huggingface_hub import HfApi, errors

        try:
            items = HfApi().list_repo_tree(self.repo_id, name, revision=self.revision)
            listed = [item.path for item in items]
        except (OSError, errors.HTTPError):  # type: ignore[attr-defined]
            config = self.fetch_optional("config.json")
            cached = config.parent.glob(f"{name}/*") if config is not None else ()
            return {f"{name}/{file.name}": file for file in cached}
        found = {path: self.fetch_optional(path) for path in listed}
        return {path: file for path, file in found.items() if file is not None}

    def fetch_optional(self, name: str) -> Path | None:
        """Return a file of the repository, None if it is not there.

        Where the Hub cannot be reached, the cache is all there is; `unreachable` says
        so then.

        Raises:
          CheckpointError: the repository or revision is unknown or closed, or the
            download broke off.
        """
        from huggingface_hub import errors, hf_hub_download

        try:
            file = Path(
                hf_hub_download(
                    self.repo_id,
                    name,
                    revision=self.revision,
                    local_files_only=self.unreachable is not None,
                )
            )
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            self.unreachable = self.unreachable or why_unreachable(error)
            return None
        except errors.EntryNotFoundError:
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
                f"Downloading {name} of {self.repo_id} failed ({first_line(error)}). "
                "What came is kept: repeat the command to go on from there."
            ) from error
        self.revision = file.relative_to(_snapshots(file)).parts[0]
        return file


def _snapshots(file: Path) -> Path:
    """Return the cache's folder of commits above a file."""
    return next(p for p in file.parents if p.name == "snapshots")


def why_unreachable(error: Exception) -> str:
    """Say why the Hub could not be asked, and what to do, as a sentence's end."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            "the Hub was not asked, since HF_HUB_OFFLINE is set. To go online type: "
            "unset HF_HUB_OFFLINE."
        )
    cause = first_line(error.__cause__ or error)
    return (
        f"the Hub at {constants.ENDPOINT} cannot be reached ({cause}). Check the "
        "connection, HTTPS_PROXY and HF_ENDPOINT, and try again."
    )
