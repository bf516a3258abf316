"""Which flipped bits of an Orbax checkpoint are noticed when it is loaded.

python tests/fuzz/flips.py --count 250 --seed 0
"""

import argparse
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
import numpy as np
from flax import nnx
from layouts import language_model

from jmamba.checkpoints import CheckpointError, load_orbax, save_orbax


def main() -> None:
    """Flip single bits of all files in turn, each as often as it has bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, found, model = random.Random(asked.seed), Counter(), language_model()
    state = nnx.state(model)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "model")
        save_orbax(model, folder)
        files = [f for f in sorted(folder.glob("parameters/**/*")) if f.is_file()]
        sizes = [file.stat().st_size for file in files]
        for file in draw.choices(files, sizes, k=asked.count):
            content = file.read_bytes()
            place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
            flipped = bytes([content[place] ^ bit])
            file.write_bytes(content[:place] + flipped + content[place + 1 :])
            try:
                same = jax.tree.map(
                    np.array_equal, nnx.state(load_orbax(folder)), state
                )
                is_same = all(jax.tree.leaves(same))
                found["changed nothing" if is_same else "changed weights"] += 1
            except CheckpointError:
                found["refused"] += 1
            file.write_bytes(content)
    print(f"{asked.count} flipped bits: {dict(found)}")


if __name__ == "__main__":
    main()
