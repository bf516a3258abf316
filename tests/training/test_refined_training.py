"""Training of models with definite gates, from the command line on."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from jmamba import MambaLM
from jmamba.commands.train import Definite, train_command
from jmamba.dynamics import count_inertia, layer_system
from jmamba.refinements.signs import CHOICES


@pytest.fixture
def train(tmp_path):
    app = typer.Typer()
    app.command()(train_command)
    text = tmp_path / "text.txt"
    text.write_bytes(b"the cat sat on the mat. " * 60)
    sizes = "--d-model 8 --num-layers 1 --d-state 3 --batch 2 --length 16 --steps 3 "
    sizes += "--warmup 1 --dtype float32"

    def run(*options):
        out = ["--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, [str(text), *out, *sizes.split(), *options])

    return run


def test_train_command_makes_definite_models(train, tmp_path):
    options = ["--definite", "mixed", "--equal-magnitudes", "--learning-rate", "0.1"]
    result = train(*options)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "gates mixed" in card and "--definite mixed --equal-magnitudes" in card
    model = MambaLM.from_pretrained(tmp_path / "out" / "model")
    assert model.config.definite == "mixed" and model.config.equal_magnitudes
    system = layer_system(model, 0)
    assert count_inertia(system, tolerance=1e-4)[:2] == (1, 2)
    assert np.abs(np.diag(system.S_B)).min() > 0.7


def test_train_command_refuses_settings_of_free_gates(train):
    result = train("--equal-magnitudes")
    assert result.exit_code != 0
    assert "do nothing to free gates" in str(result.exception)
    assert [mode.value for mode in Definite] == list(CHOICES)
