"""Convert a Mamba checkpoint: PyTorch in, JAX out, or back to PyTorch.

python convert_weights.py SRC DST [--format orbax|hf] [--dtype DTYPE] [--verify]
"""

import typer

from jmamba.commands.convert import convert_command

if __name__ == "__main__":
    typer.run(convert_command)
