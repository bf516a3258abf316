"""How much memory and time loading takes, and how soon what is damaged is refused.

python tests/fuzz/loading.py

Of a model of 214 MB, in shards of up to 52 MB where there are shards; each layout is
read in a process of its own, whole and damaged. Memory is what comes on top of what the
process held before, at most.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
from memory import forget_peak, held_bytes, peak_bytes

SIZES: dict[str, Any] = {"vocab_size": 256, "d_model": 1024, "num_layers": 8}
SHARD = 52 * 10**6


def change_config(folder: Path) -> None:
    file = folder / "config.json"
    raw = json.loads(file.read_text()) | {"num_hidden_layers": 16_384}
    file.write_text(json.dumps(raw))


def cut_largest(folder: Path) -> None:
    file = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)


def put_pipe(folder: Path) -> None:
    file = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
    file.unlink()
    os.mkfifo(file)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "whole": lambda folder: None,
    "16,384 layers": change_config,
    "cut": cut_largest,
    "a pipe": put_pipe,
}


def write(layout: str, folder: Path) -> None:
    """Write the model in a layout."""
    import torch
    from flax import nnx
    from safetensors.numpy import load_file

    from jmamba import MambaConfig, MambaLM
    from jmamba.checkpoints import save_orbax

    model = MambaLM(MambaConfig(**SIZES), rngs=nnx.Rngs(0))
    if layout == "orbax":
        return save_orbax(model, folder)
    model.save_pretrained(folder, shard_bytes=10**10 if layout == "one file" else SHARD)
    for file in folder.glob("*.safetensors") if layout == "bin shards" else ():
        tensors = {k: torch.from_numpy(v) for k, v in load_file(file).items()}
        torch.save(tensors, file.with_name(f"pytorch_{file.stem}.bin"))
        file.unlink()
    for file in folder.glob("*.index.json") if layout == "bin shards" else ():
        text = file.read_text().replace('"model-', '"pytorch_model-')
        name = "pytorch_model.bin.index.json"
        (folder / name).write_text(text.replace(".safetensors", ".bin"))
        file.unlink()
    return None


def measure(folder: Path) -> None:
    """Read a folder and print what became of it."""
    import torch  # noqa: F401, before memory is counted

    from jmamba import LanguageModel
    from jmamba.checkpoints import CheckpointError

    with tempfile.TemporaryDirectory() as parent:  # what is imported late
        tiny = Path(parent, "tiny")
        SIZES.update(d_model=8, num_layers=1)
        for layout in ("one file", "orbax"):
            write(layout, tiny)
            LanguageModel.from_pretrained(tiny)
            shutil.rmtree(tiny)
    forget_peak()
    start, held = time.perf_counter(), held_bytes()
    try:
        model, outcome = LanguageModel.from_pretrained(folder), "read"
    except CheckpointError as error:
        model, outcome = None, str(error)[:60]
    seconds, memory = time.perf_counter() - start, peak_bytes() - held
    print(f"{seconds:.2f} s, {memory / 1e6:.0f} MB: {outcome}")
    del model


def main() -> None:
    """Write, damage and read all layouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    folder = parser.parse_args().folder
    if folder is not None:
        return measure(folder)
    with tempfile.TemporaryDirectory() as parent:
        for layout in ("one file", "shards", "bin shards", "orbax"):
            whole, damaged = Path(parent, "whole"), Path(parent, "damaged")
            write(layout, whole)
            for name, damage in DAMAGES.items():
                shutil.copytree(whole, damaged)
                damage(damaged)
                command = [sys.executable, __file__, "--folder", damaged]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                print(f"{layout}, {name}: {done.stdout.strip()}", flush=True)
                shutil.rmtree(damaged)
            shutil.rmtree(whole)
    return None


if __name__ == "__main__":
    main()
