"""States of a training run on disk: all that it needs to go on."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jmamba.files.errors import FileError
from jmamba.files.exchange import room_for, write_file
from jmamba.files.orbax_files import clear_unfinished, read_arrays, silence_orbax
from jmamba.files.untrusted import as_path, check_all_regular, first_line
from jmamba.training.processes import all_agree
from jmamba.training.run_folder import hold_folder, unwritable
from jmamba.training.settings import SETTINGS, check_run_settings, read_run_settings

ITEM = "default"
"""Folder of a step in which Orbax keeps a state: its leaves by number."""

NOTES = "_CHECKPOINT_METADATA"
"""File of a step in which Orbax notes when it was saved."""

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
      ValueError: the directory holds states of other settings, another run is writing
        to it, or it cannot be written.
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
        self._held: IO | None = None
        if directory is None:
            return
        import orbax.checkpoint as ocp

        silence_orbax()
        self.directory = as_path(directory).absolute()
        self._held = hold_folder(self.directory)  # nobody else writes from here on
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            save_interval_steps=save_every,
            cleanup_tmp_directories=True,  # of savings that were killed
        )
        try:
            check_all_regular(self.directory)
            self.manager = _open_manager(self.directory, options)
            self._claim(json.loads(json.dumps(dict(settings))), extend=extend)
        except BaseException:
            self._let_go()
            raise

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
        if jax.process_index() == 0 and wanted != read_run_settings(self.directory):
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
            restored, error = self._try_to_read(step, state)
            if not all_agree(error is None):
                elsewhere = FileError("another process cannot read its part")
                damaged[step] = error or elsewhere
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

    def _try_to_read(self, step: int, state: Any) -> tuple[Any, Exception | None]:
        try:
            return self._read(step, state), None
        except FileError as error:
            return None, error

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
            if jax.process_index() == 0:
                shutil.rmtree(self.directory / str(step), ignore_errors=True)
        if damaged and all_agree(True):  # which waits until they are removed
            self.manager.reload()  # type: ignore[union-attr]

    def is_due(self, step: int) -> bool:
        """Say whether a state after so many steps is one to save."""
        return self.manager is not None and self.manager.should_save(step)

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
            self._let_go()

    def _let_go(self) -> None:
        """Let other runs write to the folder."""
        if self._held is not None:
            self._held.close()

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
        raise unwritable(directory, error) from error


def _bind_as(restored: jax.Array, before: jax.Array) -> jax.Array:
    """Return what was restored, bound to its devices only if it was so before.

    Counts, and a model that was placed nowhere, go where the other operands are.
    """
    return restored if before.committed else jnp.asarray(np.asarray(restored))
