"""States of a training run on disk: all that it needs to go on, and its settings."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for, write_file
from jmamba.files.json_files import read_json
from jmamba.files.orbax_files import clear_unfinished, read_arrays, silence_orbax
from jmamba.files.untrusted import as_path, check_all_regular, first_line

SETTINGS = "settings.json"
"""File beside the states that says what they are states of."""

ITEM = "default"
"""Folder of a step in which Orbax keeps a state: its leaves by number."""

NOTES = "_CHECKPOINT_METADATA"
"""File of a step in which Orbax notes when it was saved."""

_FREE = ("save_every",)
"""Settings that may differ, for the result is the same."""

_LOGGER = logging.getLogger("jmamba")

State = TypeVar("State")


class TrainingStates:
    """Keeps the states of one run through Orbax, or none.

    Args:
      directory: where; None keeps none.
      settings: all that the run depends on, as JSON has it, "steps" among it.
      save_every: steps between states.
      extend: whether "steps" may be more than it was.

    Raises:
      ValueError: the directory holds states of other settings, or cannot be written.
    """

    def __init__(
        self,
        directory: str | Path | None,
        settings: Mapping[str, Any],
        *,
        save_every: int,
        extend: bool = False,
    ):
        self.manager, self.saved, self._has_failed = None, None, False
        if directory is None:
            return
        import orbax.checkpoint as ocp

        silence_orbax()
        self.directory = as_path(directory).absolute()
        check_all_regular(self.directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            save_interval_steps=save_every,
            cleanup_tmp_directories=True,  # of savings that were killed
        )
        self.manager = _open_manager(self.directory, options)
        self._claim(json.loads(json.dumps(dict(settings))), extend=extend)

    def _claim(self, wanted: dict[str, Any], *, extend: bool) -> None:
        """Compare settings with those that the states there were made with."""
        file = self.directory / SETTINGS
        found = read_run_settings(self.directory)
        if self.manager.all_steps():  # type: ignore[union-attr]
            if found is None:
                _LOGGER.warning(
                    "%s holds states without their settings, of an earlier version: "
                    "whether the present ones are the same cannot be said.",
                    self.directory,
                )
            else:
                earlier = found.pop("extended", [])
                check_run_settings(found, wanted, self.directory, extend=extend)
                if found["steps"] != wanted["steps"]:
                    earlier = [*earlier, found["steps"]]
                wanted = wanted | ({"extended": earlier} if earlier else {})
        if wanted != read_run_settings(self.directory):
            write_file(file, json.dumps(wanted, indent=2) + "\n")

    def restore(self, state: State) -> State:
        """Return the newest state that can be read, or the one given if there is none.

        Raises:
          ValueError: there are states, but none can be read.
        """
        if self.manager is None:
            return state
        damaged: dict[int, Exception] = {}
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                restored = self._read(step, state)
            except FileError as error:
                damaged[step] = error
                continue
            self._drop(damaged, step)
            self.saved = step
            return restored
        if damaged:
            error = next(iter(damaged.values()))
            raise FileError(
                f"No state in {self.directory} can be read ({first_line(error)}). "
                "Delete the folder to begin anew, or name another."
            ) from error
        return state

    def _read(self, step: int, state: State) -> State:
        leaves, structure = jax.tree.flatten(state)
        wanted = {
            str(number): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for number, x in enumerate(leaves)
        }
        restored = read_arrays(self.directory / str(step) / ITEM, wanted).values()
        bound = list(map(_bind_as, restored, leaves))
        return jax.tree.unflatten(structure, bound)

    def _drop(self, damaged: Mapping[int, Exception], used: int) -> None:
        """Remove states that cannot be read, whose steps are saved again."""
        for step, error in damaged.items():
            _LOGGER.warning(
                "The state after step %d in %s cannot be read (%s); that after step "
                "%d is used instead.",
                *(step, self.directory, first_line(error), used),
            )
            shutil.rmtree(self.directory / str(step), ignore_errors=True)
        if damaged:
            self.manager.reload()  # type: ignore[union-attr]

    def save(self, state: Any, step: int, *, last: bool) -> None:
        """Save a state if it is time to, or the last one.

        Raises:
          ValueError: the disk is full.
        """
        if self.manager is None or step in self.manager.all_steps():
            return
        import orbax.checkpoint as ocp

        args = ocp.args.StandardSave(jax.tree.leaves(state))
        with self._complaining():
            if self.manager.save(step, args=args, force=last):
                self.saved = step

    def close(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
          ValueError: the disk is full.
        """
        if self.manager is None:
            return
        try:
            with self._complaining():
                try:
                    self.manager.wait_until_finished()
                finally:
                    self.manager.close()
        finally:
            if self._has_failed:
                clear_unfinished(self.directory)

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        with room_for(self.directory, "earlier states of training are as they were"):
            try:
                yield
            except Exception:
                self._has_failed = True
                raise


def _open_manager(directory: Path, options: Any) -> Any:
    """Return Orbax's manager of a folder.

    Of the notes that Orbax keeps beside each state, when it was saved, nothing is
    needed: where they are damaged they are removed.
    """
    import orbax.checkpoint as ocp

    try:
        try:
            return ocp.CheckpointManager(directory, options=options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            notes = sorted(directory.glob(f"*/{NOTES}"))
            if not notes:
                raise
            _LOGGER.warning(
                "What Orbax noted of the states in %s is damaged (%s), and left out.",
                *(directory, first_line(error)),
            )
            for file in notes:
                file.unlink()
            return ocp.CheckpointManager(directory, options=options)
    except OSError as error:
        raise ValueError(
            f"Cannot write to {directory}: {error.strerror}. Name another folder."
        ) from error


def read_run_settings(directory: Path) -> dict[str, Any] | None:
    """Return the settings of the run whose states a folder holds, None without them.

    Raises:
      ValueError: they are damaged.
    """
    file = directory / SETTINGS
    if not file.exists():
        return None
    found = read_json(file)
    is_list = isinstance(found.get("extended", []), list)
    if not is_list or not isinstance(found.get("steps"), int):
        raise FileError(
            f"{file} does not hold the settings of a run; restore it, or delete "
            f"{directory} to begin anew."
        )
    return found


def check_run_settings(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    directory: Path,
    *,
    extend: bool = False,
) -> None:
    """Raise unless a run may go on with the settings wanted.

    Args:
      found: settings that it was begun with.
      wanted: settings that it is to go on with.
      directory: where its states are.
      extend: whether "steps" may be more.

    Raises:
      ValueError: they differ; the message lists in what.

    Examples:
      >>> check_run_settings({"steps": 9}, {"steps": 12}, Path("out"), extend=True)
    """
    found, wanted = _flatten(found), _flatten(wanted)
    different = [
        key
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key) and key not in _FREE
    ]
    is_longer = "steps" in different and found["steps"] < wanted["steps"]
    if different == ["steps"] and is_longer and extend:
        return
    if different:
        lists = "; ".join(
            f"{key} was {found.get(key, 'not there')} and is "
            f"{wanted.get(key, 'not there')}"
            for key in different
        )
        hint = " To add steps to it, give extend=True or --extend." if is_longer else ""
        raise FileError(
            f"{directory} holds a run of other settings: {lists}. Give the settings "
            f"that it was begun with, or name another folder.{hint}"
        )


def fingerprint(tree: Any) -> str:
    """Return a short text that differs between batches of different whole numbers.

    Other numbers count by shape and dtype: they may differ in the last place between
    devices.

    Examples:
      >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3) + 1)
      False
    """
    seen = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        is_here = getattr(leaf, "is_fully_addressable", True)
        seen.update(f"{np.shape(leaf)} {jnp.result_type(leaf)}".encode())
        if is_here and jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            seen.update(np.ascontiguousarray(leaf).tobytes())
    return seen.hexdigest()[:16]


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in _flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _bind_as(restored: jax.Array, before: jax.Array) -> jax.Array:
    """Return what was restored, bound to its devices only if it was so before.

    Counts, and a model that was placed nowhere, go where the other operands are.
    """
    return restored if before.committed else jnp.asarray(np.asarray(restored))
