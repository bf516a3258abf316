"""What `import jmamba` costs."""

import subprocess
import sys

HEAVY = ["torch", "transformers", "matplotlib", "typer", "rich", "orbax", "safetensors",
         "tensorstore", "huggingface_hub", "tokenizers", "optax"]  # fmt: skip


def test_import_loads_no_heavy_library():
    # flax brings some of these along by itself, which is not for us to say
    program = f"""
import sys
from flax import nnx
before = set(sys.modules)
import jmamba
print(*sorted(set({HEAVY}) & (set(sys.modules) - before)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
