import json
import logging
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jmamba
from jmamba.cli import app
from jmamba.commands import train_run as command
from jmamba.commands.step_reports import StepReporter
from jmamba.planning.configs import find_config
from jmamba.training.batches import text_loss
from jmamba.training.config import TrainConfig
from jmamba.training.divergence import Divergence
from jmamba.training.language import new_model, train
from jmamba.training.loop import fit
from jmamba.training.metrics import METRICS, MetricsLog, read_metrics
from jmamba.training.sources import ByteWindows, draw_from
from jmamba.training.states import NOTES

pytestmark = pytest.mark.usefixtures("unchecked")

CONFIG = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=1, d_state=4)
TEXT = np.frombuffer(b"the cat sat on the mat. " * 200, np.uint8)
SETTINGS: dict[str, Any] = dict(steps=6, batch=2, length=16, warmup=2, save_every=2)


def run(directory: Path, text=TEXT, extend=False, report=None, **changes):
    losses = []
    train(
        new_model(CONFIG, 0),
        text,
        TrainConfig(**(SETTINGS | changes)),
        directory=directory,
        report=report or (lambda r: losses.append(r.loss)),
        extend=extend,
    )
    return losses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"learning_rate": 0.5}, r"learning_rate was 0.003 and is 0.5"),
        ({"steps": 9}, r"steps was 6 and is 9.*extend=True or --extend"),
        ({"steps": 5}, r"steps was 6 and is 5\. Give"),
        ({"text": TEXT[:-8]}, "data was .* and is"),
    ],
)
def test_other_settings_are_refused(tmp_path, changes, message):
    run(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)
    assert run(tmp_path, save_every=1) == []


def test_more_steps_are_allowed_by_name(tmp_path):
    run(tmp_path)
    assert len(run(tmp_path, steps=9, extend=True)) == 3
    assert json.loads((tmp_path / "settings.json").read_text())["extended"] == [6]
    assert run(tmp_path, steps=9) == []


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt: it is ignored where tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_has_lost_no_step(tmp_path, ctrl_c):
    whole = run(tmp_path / "whole")

    told = []

    def interrupt(report):
        told.append(report.loss)
        if report.step == 2:  # when the next ones are begun
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", report=interrupt, save_every=5)
    assert 2 <= len(told) < 6  # and all that were begun are told
    assert told + run(tmp_path / "part") == whole


def test_losses_are_told_late_in_order_and_before_they_are_saved(tmp_path):
    begun, told = [], []

    def draw(step):
        return draw_from(ByteWindows(TEXT, batch=2, length=16, seed=0))(step)

    def report(said):
        told.append((said.step, said.held_out))
        assert not (tmp_path / "run" / str(said.step)).exists()

    def evaluate(model):
        begun.append(len(told))
        return float(len(begun))

    settings = TrainConfig(**SETTINGS, evaluate_every=3)
    fit(
        new_model(CONFIG, 0), text_loss, draw, settings, directory=tmp_path / "run",
        report=report, evaluate=evaluate,
    )  # fmt: skip
    assert told == [(1, None), (2, None), (3, 1.0), (4, None), (5, None), (6, 2.0)]
    assert begun == [2, 5]  # all earlier ones are told by then


def test_an_older_state_is_used_where_the_newest_is_damaged(tmp_path, caplog):
    whole = run(tmp_path)
    for file in (tmp_path / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "jmamba"):
        assert run(tmp_path) == whole[4:]
    assert "state after step 6" in caplog.text and "step 4 is used" in caplog.text
    assert run(tmp_path) == []


@pytest.mark.parametrize(
    "notes", ["[1]", '{"metrics": 3}', '{"init_timestamp_nsecs": ""}']
)
def test_states_are_read_without_orbaxs_notes(tmp_path, caplog, notes):
    run(tmp_path)
    (tmp_path / "6" / NOTES).write_text(notes)
    with caplog.at_level(logging.WARNING, "jmamba"):
        assert run(tmp_path) == []  # all steps are done
    assert "noted of the states" in caplog.text and "left out" in caplog.text


def test_no_state_that_can_be_read_is_said(tmp_path):
    run(tmp_path)
    for name in ("4", "6"):
        shutil.rmtree(tmp_path / name / "default")
    with pytest.raises(ValueError, match="No state in .* can be read"):
        run(tmp_path)


def test_states_that_would_never_be_read_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "6" / NOTES).unlink()
    os.mkfifo(tmp_path / "6" / NOTES)
    with pytest.raises(ValueError, match="is a named pipe"):
        run(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": "6"}', "[" * 9999])
def test_damaged_settings_are_said(tmp_path, text):
    run(tmp_path)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(
        ValueError,
        match="settings.json (is not valid JSON|holds list|does not hold the settings)",
    ):
        run(tmp_path)


def test_no_state_is_named_where_none_was_saved(tmp_path):
    class States:
        saved = None

    watch = Divergence(0.1)
    watch.check(3, {"loss": 1.0}, States)
    with pytest.raises(FloatingPointError, match="gradient is inf.*no state was saved"):
        watch.check(3, {"loss": 1.0, "gradient": float("inf")}, States)


@pytest.mark.parametrize("changes", [
    {"learning_rate": float("nan")}, {"learning_rate": float("inf")}, {"seed": -1},
    {"seed": 2**70}, {"weight_decay": float("nan")}, {"batch": 2.5}, {"steps": True},
])  # fmt: skip
def test_numbers_that_make_no_run_are_refused(changes):
    with pytest.raises(ValueError, match="TrainConfig: .* cannot be"):
        TrainConfig(**(SETTINGS | changes))


def test_torn_lines_of_metrics_are_left_out(tmp_path, caplog):
    file = tmp_path / METRICS
    rows = ['{"step": 1, "loss": 5.0}', "nonsense", '{"step": 2, "loss": 4.0}']
    odd = ['{"step": 3}', '{"step": 4, "loss": NaN}', f'{{"step": {"9" * 400}']
    file.write_text("\n".join([*rows, *odd, '{"step": 5, "lo']))
    with caplog.at_level(logging.WARNING, "jmamba"):
        assert read_metrics(file) == {1: {"loss": 5.0}, 2: {"loss": 4.0}}
    assert "2, 4, 5, 6, 7" in caplog.text
    log = MetricsLog(file)
    log.append(2, loss=4.5, utilisation=None)
    log.close()
    assert file.read_text() == '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.5}\n'


RUN = CliRunner()
OPTIONS = {
    "--d-model": 16,
    "--num-layers": 1,
    "--d-state": 4,
    "--steps": 4,
    "--batch": 2,
    "--length": 16,
    "--warmup": 1,
    "--dtype": "float32",
}


def type_train(folder: Path, **changes):
    data = folder / "text"
    data.write_bytes(TEXT.tobytes())
    options = {"--out": folder / "out"} | OPTIONS | changes
    parts = [str(part) for pair in options.items() for part in pair if part is not None]
    return RUN.invoke(app, ["train", str(data), *parts])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--batch": 10**9}, "Training needs at least"),
        ({"--d-model": 10**9}, "d_model must be an integer from 1 to 1,048,576"),
        ({"--d-model": 10**6, "--num-layers": 10**4}, "Training needs at least"),
        ({"--length": 10**6}, "bytes hold no window"),
        ({"--dtype": "int8"}, "dtype must be one of"),
        ({"--learning-rate": "nan"}, "cannot be"),
        ({"--learning-rate": "inf"}, "cannot be"),
        ({"--seed": -1}, "cannot be"),
        ({"--seed": 10**30}, "cannot be"),
        ({"--out": "~nobody-of-this-name/x"}, "a user who is not known here"),
        ({"--out": "x" * 5000}, "cannot be opened"),
        ({"--out": "/dev/null/x"}, "Cannot write"),
    ],
)
def test_train_refuses_before_it_works(tmp_path, changes, message):
    result = type_train(tmp_path, **changes)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_train_takes_no_folder_of_other_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    result = type_train(tmp_path)
    assert result.exit_code == 2
    assert "thesis.tex" in " ".join(result.stderr.split())


def test_train_interrupted_while_it_measures_can_be_finished(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_measure", interrupt)
        result = type_train(tmp_path)
    assert result.exit_code == 130 and "run it again to go on" in result.stderr
    assert not (tmp_path / "out" / "model").exists()
    result = type_train(tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model" / "README.md").is_file()
    assert "trained to its end" in " ".join(type_train(tmp_path).stderr.split())
    result = type_train(tmp_path, **{"--steps": 6, "--extend": None})
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "begun for 4 and extended" in card


@pytest.mark.parametrize("moment", ["training", "measuring"])
def test_sigterm_saves_and_exits_with_0(tmp_path, monkeypatch, moment):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert type_train(whole).exit_code == 0

    def terminate(*args):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        if moment == "training":
            patch.setattr(StepReporter, "__call__", terminate)
        else:
            patch.setattr(command, "_measure", terminate)
        result = type_train(tmp_path)
    assert result.exit_code == 0, result.output
    assert "Ended by SIGTERM; what is done is kept; run it again" in result.stderr
    saved = 1 if moment == "training" else OPTIONS["--steps"]
    assert (tmp_path / "out" / "state" / str(saved)).is_dir()
    assert type_train(tmp_path).exit_code == 0
    files = [x / "out" / "model-float32" / "SHA256SUMS" for x in (whole, tmp_path)]
    assert files[0].read_text() == files[1].read_text()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    def begin_another(report):
        with pytest.raises(
            ValueError, match="Another run is writing to .*name another"
        ):
            run(tmp_path)

    run(tmp_path, report=begin_another)
    assert run(tmp_path) == []  # it has let go


def test_refused_options_leave_those_of_the_run(tmp_path):
    assert type_train(tmp_path, **{"--steps": 3}).exit_code == 0
    (tmp_path / "out" / "model" / "README.md").unlink()
    before = (tmp_path / "out" / "config.toml").read_text()
    result = type_train(tmp_path, **{"--steps": 3, "--seed": 1})
    assert result.exit_code == 2 and "seed was 0 and is 1" in result.stderr
    assert (tmp_path / "out" / "config.toml").read_text() == before


def test_too_little_memory_names_the_plan(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9G")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(command, "new_model", fail)
    result = type_train(tmp_path)
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and "Out of memory: 9G. Try --remat full" in said
    typed = shlex.split(said.split("said by jmamba ")[1])
    assert typed[:3] == ["plan", "--model", str(tmp_path / "out")]
    assert find_config(typed[2]).d_model == 16


def test_a_full_disk_while_states_are_saved_is_said(tmp_path, monkeypatch):
    run(tmp_path)

    def fail(self, *args, **options):
        raise OSError(28, "No space left on device")

    import orbax.checkpoint as ocp

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    with pytest.raises(ValueError, match="no room left on the disk.*earlier states"):
        run(tmp_path, steps=9, extend=True)
    monkeypatch.undo()
    assert len(run(tmp_path, steps=9)) == 3
