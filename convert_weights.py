"""Convert a Mamba checkpoint: PyTorch in, JAX out, or back to PyTorch.

python convert_weights.py SRC DST [--format orbax|hf] [--dtype DTYPE] [--verify]
"""

import typer

from jmamba.cli import main
from jmamba.commands.convert import convert_command
from jmamba.commands.mistakes import exit_codes

if __name__ == "__main__":
    main(lambda: typer.run(exit_codes()(convert_command)))
