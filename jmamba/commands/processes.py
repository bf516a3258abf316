"""Joining the processes of a run that several machines share."""

import signal
import socket
import time
from typing import Annotated

import typer

Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Join the processes of a TPU pod, SLURM, MPI or Kubernetes.",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of the first process, where nothing says it."),
]
Processes = Annotated[
    int | None, typer.Option(help="How many there are, likewise.", min=1)
]
Process = Annotated[
    int | None, typer.Option(help="Number of this one, from 0 on, likewise.", min=0)
]

OPTIONS = ("distributed", "coordinator", "processes", "process")
"""Names of these options, which say nothing of what a run is."""

LONGEST_START = 300
"""Seconds that processes wait for each other at the start."""


def join_processes(
    distributed: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
) -> None:
    """Join the other processes by `jax.distributed`, if there are to be any.

    It comes before JAX looks for devices. On TPU pods, and under SLURM, Open MPI and
    Kubernetes, JAX finds out by itself what is not given.

    Raises:
      ValueError: only some of the numbers are given, or the others are not found.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not distributed and len(missing) == len(given):
        return
    if missing and not distributed:
        raise ValueError(
            f"{', '.join(missing)} must be given, too, or --distributed, with which "
            "JAX asks the cluster for what is missing."
        )
    if processes is not None and process is not None and process >= processes:
        raise ValueError(
            f"--process {process}: {processes} processes have the numbers 0 to "
            f"{processes - 1}."
        )
    if coordinator is not None and process:
        _wait_for(coordinator)
    import jax

    # SIGTERM is JAX's from here on, which tells all processes of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=LONGEST_START
        )
    except (ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"The processes of the run cannot be joined: {said[0][:300]} Give "
            "--coordinator HOST:PORT, --processes and --process to each of them."
        ) from error


def _wait_for(coordinator: str) -> None:
    """Wait until the first process listens; JAX would end this one without a word.

    Raises:
      ValueError: it is no address, or nobody listens there.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"--coordinator {coordinator} is no HOST:PORT; give for example host0:1234."
        )
    stop = time.monotonic() + LONGEST_START
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > stop:
                raise ValueError(
                    f"Nobody listens at {coordinator} ({error}). Start the first "
                    "process (--process 0) there, and let others reach its port."
                ) from error
            time.sleep(0.2)


def is_first_process() -> bool:
    """Say whether this is the process that speaks and writes for all."""
    import jax

    return jax.process_index() == 0
