"""Compile for a GPU that is not there, with the compiler that would be used for it.

Beside jax three packages are enough, and no driver: jax-cuda12-plugin and
jax-cuda12-pjrt of jax's version, and nvidia-cuda-nvcc-cu12 (absl-py for Mosaic GPU).
A process writes what the compiler leaves on disk to one folder: ask for it, with
`dump_to`, before jax compiles anything.
"""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies


class Gpu(NamedTuple):
    """What the compiler must know of a GPU."""

    kind: str
    capability: tuple[int, int]
    processors: int
    threads: int
    shared_memory: int
    l2: int
    bandwidth: int
    memory: int

    @property
    def architecture(self) -> str:
        """Return its name for ptxas, such as sm_80."""
        major, minor = self.capability
        return f"sm_{major}{minor}" + ("a" if self.capability == (9, 0) else "")


GPUS = {
    "sm_80": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 2048, 166_912, 41_943_040,
                 1_555_000_000_000, 42_331_013_120),
    "sm_89": Gpu("NVIDIA L4", (8, 9), 58, 1536, 101_376, 50_331_648,
                 300_000_000_000, 23_580_639_232),
    "sm_90": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 2048, 232_448, 52_428_800,
                 3_352_320_000_000, 84_978_434_048),
}  # fmt: skip

DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_memory}
  shared_memory_per_core: {gpu.shared_memory}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.processors}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: 1.5
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{gpu.kind}"
"""
"""The description of a GPU as XLA reads it (text of a GpuTargetConfigProto)."""


def why_no_gpu_compiler() -> str | None:
    """Return why nothing can be compiled for a GPU here, or None."""
    needed = ("jax_cuda12_plugin", "jax_plugins.xla_cuda12", "nvidia.cuda_nvcc")

    def is_there(name):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.util.find_spec(name) is not None
        return False

    if missing := [name for name in needed if not is_there(name)]:
        return (
            f"no GPU compiler: {', '.join(missing)} missing; install "
            f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__} "
            f"nvidia-cuda-nvcc-cu12"
        )
    return None


def dump_to(folder: str | Path) -> None:
    """Let XLA leave PTX and launch sizes in a folder, and Mosaic GPU print its own."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_dump_to={folder}"
    os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"


def gpu_device(name: str):
    """Return a device to compile for, which cannot run."""
    text = DESCRIPTION.format(gpu=GPUS[name])
    return topologies.get_topology_desc(
        platform="cuda", topology_name=name, topology="1x1x1", target_config=text
    ).devices[0]


def compile_for_gpu(
    name: str, label: str, function: Callable, *shapes, folder: str | Path
):
    """Return a function compiled for a GPU of `GPUS`.

    Args:
      folder: where `dump_to` pointed.
      name: which GPU.
      label: what the program is called in what the compiler leaves on disk.
      function: what to compile.
      *shapes: pytrees of jax.ShapeDtypeStruct.
    """
    device = gpu_device(name)
    sharding = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )

    def program(*args):
        return function(*args)

    program.__name__ = label
    with output_to(Path(folder) / f"{label}.log"), _lowered_for(device):
        return jax.jit(program).lower(*placed).compile()


@contextlib.contextmanager
def _lowered_for(device):
    """Tell kernels what they are lowered for, where no such device is attached.

    From jax 0.12 on Triton kernels ask for it, and warn that Triton is deprecated.
    """
    if jax.__version_info__ < (0, 12):
        yield
        return
    abstract = jax.sharding.AbstractDevice(
        device_kind=device.device_kind, num_cores=None, platform="cuda"
    )
    mesh = jax.sharding.AbstractMesh(
        (1,), ("x",), (jax.sharding.AxisType.Explicit,), abstract_device=abstract
    )
    with jax.sharding.use_abstract_mesh(mesh), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated")
        yield


class Resources(NamedTuple):
    """What one kernel uses, of a thread and of a multiprocessor; None if unknown."""

    registers: int | None
    spill_bytes: int | None
    shared_bytes: int | None


def resources(folder: str | Path, name: str, label: str, kernel: str) -> Resources:
    """Return what a kernel uses, from what the compilers left in a folder.

    Args:
      folder: where `dump_to` pointed.
      name: the GPU it was compiled for.
      label: the program it is part of.
      kernel: its name.
    """
    log = Path(folder) / f"{label}.log"  # Mosaic GPU runs ptxas by itself, and prints
    text = log.read_text(errors="replace") if log.exists() else ""
    if f"'{kernel}_mosaic_gpu_kernel'" not in text:
        ptx = find_ptx(folder, label, kernel)
        if ptx is None:  # from jax 0.12 on Triton's PTX stays inside the program
            return Resources(None, None, None)
        text = assemble(ptx, name)
    text = re.split(rf"'{kernel}(?:_mosaic_gpu_kernel)?'", text)[1]
    used = re.search(r"Used (\d+) registers", text)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
    assert used and spills, text
    launches = "".join(
        p.read_text() for p in Path(folder).glob(f"*jit_{label}.thunk_sequence.txt")
    )
    shared = re.search(rf"{kernel} .*?shared_memory: (\d+) bytes", launches)
    spilled = int(spills[1]) + int(spills[2])
    return Resources(int(used[1]), spilled, int(shared[1]) if shared else None)


def assemble(ptx: Path, name: str) -> str:
    """Return what ptxas says of a file."""
    command = [ptxas(), f"-arch={GPUS[name].architecture}", "-v", ptx, "-o", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@contextlib.contextmanager
def output_to(path: Path):
    """Send what compilers print to a file, also from C++."""
    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def find_ptx(folder: str | Path, label: str, kernel: str) -> Path | None:
    """Return the file that holds a kernel of a program, if XLA compiled it."""
    files = Path(folder).glob(f"*jit_{label}.*.ptx")
    found = (p for p in files if f".entry {kernel}(" in p.read_text(errors="replace"))
    return next(found, None)


def count_atomics(folder: str | Path, label: str) -> int:
    """Return how many atomic instructions a program has: sums in any order."""
    files = Path(folder).glob(f"*jit_{label}.*.ptx")
    text = "".join(p.read_text(errors="replace") for p in files)
    return len(re.findall(r"\b(?:atom|red)\.(?:global|relaxed|gpu|acq|add)", text))


def ptxas() -> str:
    """Return the path of NVIDIA's assembler."""
    import nvidia.cuda_nvcc  # pyright: ignore[reportMissingImports]

    return str(Path(nvidia.cuda_nvcc.__path__[0]) / "bin" / "ptxas")
