"""`jmamba train`: its options from a file and typed, and what it writes of a run."""

import json
import re
import sys
import tomllib

import jax
import pytest
from PIL import Image
from typer.testing import CliRunner

from jmamba import MambaConfig, MambaLM, Vim
from jmamba.cli import app
from jmamba.commands.settings_files import options_text
from jmamba.commands.step_reports import reporting, training_bars
from jmamba.planning import utilisation
from jmamba.planning.topologies import CHIPS
from jmamba.planning.utilisation import Peak
from jmamba.training import StepReport, TrainConfig
from jmamba.training.bits_per_byte import bits_per_token
from jmamba.training.data import read_bytes, split_bytes
from jmamba.training.metrics import METRICS, read_metrics
from jmamba.training.sources import spread_windows

pytestmark = pytest.mark.usefixtures("unchecked")
SIZES = {"d-model": 16, "num_layers": 1, "d_state": 4, "steps": 3, "batch": 8,
         "length": 16, "warmup": 1, "dtype": "float32"}  # fmt: skip


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"the cat sat on the mat. " * 60)
    return file


def type_train(text, *options, sizes=SIZES):
    folder = text.parent
    file = folder / "run.toml"
    file.write_text(options_text(sizes, "a run"))
    typed = ["train", str(text), "--out", str(folder / "out"), "--config", str(file)]
    return CliRunner().invoke(app, [*typed, *map(str, options)])


def test_options_come_from_a_file_and_typed_ones_count_more(text):
    """On a mesh, with everything that a run may be asked for."""
    out = text.parent / "out"
    mesh = "data=2,fsdp=2,tensor=2"
    options = f"--steps 2 --mesh {mesh} --optimizer muon --accumulate 2 --average 0.5"
    options += " --compute bfloat16 --remat full"
    result = type_train(text, *options.split())
    assert result.exit_code == 0, result.output
    said = tomllib.loads((out / "config.toml").read_text())
    assert said["steps"] == 2 and said["d_model"] == 16 and said["mesh"] == mesh
    assert said["seed"] == 0 and said["data"] == str(text)
    card = (out / "model" / "README.md").read_text()
    typed = next(line for line in card.splitlines() if line.startswith("jmamba train"))
    assert typed == (out / "config.toml").read_text().splitlines()[0][2:]
    assert "--optimizer muon" in typed and "--seed" not in typed
    assert "| optimizer | muon" in card
    rows = read_metrics(out / METRICS)
    assert sorted(rows) == [1, 2] and rows[2]["gradient_norm"] > 0
    assert rows[1]["learning_rate"] == 0 and "utilisation" not in rows[1]
    settings = json.loads((out / "state" / "settings.json").read_text())
    assert settings["dtype"] == "bfloat16" and settings["optimizer"] == "muon"
    again = CliRunner().invoke(app, ["train", "--config", str(out / "config.toml")])
    assert "trained to its end" in again.stderr


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"stepz": 3}, "no option of .*train: stepz. There are accumulate, average"),
        ({"steps": "many"}, "Invalid value for '--steps'"),
        ({"optimizer": "adm"}, "There is no optimizer 'adm'; give one of adamw"),
        ({"mesh": "data=3"}, "a mesh of 3 devices, but there are 8"),
        ({"mesh": "rows=8"}, "'rows=8' is no mesh"),
        ({"mesh": "tensor=8", "d-model": 6}, "d_inner=12 is not divided by tensor=8"),
        ({"mesh": "data=8", "batch": 4}, "4 rows is not divided by data x fsdp = 8"),
        ({"compute": "int8"}, "dtype must be one of"),
        ({"accumulate": 3}, "accumulate.*cannot be"),
    ],
)
def test_what_cannot_be_is_refused_before_work(text, sizes, message):
    result = type_train(text, sizes=SIZES | sizes)
    assert result.exit_code == 2, result.output
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert not (text.parent / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("steps =", "is no TOML file"), ("[steps]\na = 1", "steps must be one value")],
)
def test_files_that_are_no_options_are_refused(text, content, message):
    (text.parent / "odd.toml").write_text(content)
    result = type_train(text, "--config", text.parent / "odd.toml")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_steps_are_written_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    settings = TrainConfig(1, 2, 8, warmup=0)
    bars = training_bars()
    with reporting(
        tmp_path,
        settings,
        bars=bars,
        unit="byte",
        tensorboard=True,
        in_step=16,
        peak=Peak(1, 1),
        begin=lambda: None,
    ) as report:
        report(StepReport(1, 2.5, 1.5, 1e-3))
    (file,) = (tmp_path / "tensorboard").glob("events.*")
    names = (b"loss", b"gradient_norm", b"learning_rate", b"utilisation")
    assert all(name in file.read_bytes() for name in names)
    assert read_metrics(tmp_path / METRICS)[1]["loss"] == 2.5


def test_what_writes_for_tensorboard_is_named_where_it_is_not(text, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = type_train(text, "--tensorboard")
    assert result.exit_code == 2
    assert 'type pip install "jmamba[tensorboard]"' in " ".join(result.stderr.split())


def test_utilisation_is_of_the_chips_peak():
    """2 x 3 x weights x tokens of products that are used once, over time and peak."""

    class Chip:
        device_kind = "TPU v5 lite"

    config = MambaConfig(vocab_size=256, d_model=16, num_layers=2, d_state=4)
    d, m, r, n = config.d_inner, 16, config.dt_rank, 4
    layer = m * 2 * d + d * (r + 2 * n) + r * d + d * m
    tokens, weights = 4 * 8, 2 * layer + 256 * m
    peak = utilisation.find_peak(config, 4, 8, [Chip(), Chip()])
    assert peak is not None and peak.flops == 2 * CHIPS["v5e"].flops
    least = 6 * weights * tokens
    assert least <= peak.step_flops < 1.1 * least
    assert peak.utilisation(0.5) == peak.step_flops / 0.5 / peak.flops
    assert utilisation.find_peak(config, 4, 8, jax.devices()) is None


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("Tesla T4", 6.5e13),
        ("NVIDIA L4", 1.21e14),
        ("Tesla V100-SXM2-16GB", 1.25e14),
        ("NVIDIA A100-SXM4-80GB", 3.12e14),
        ("NVIDIA H100 80GB HBM3", 9.89e14),
        ("NVIDIA H100 PCIe", 7.56e14),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A1000", None),
    ],
)
def test_peaks_of_gpus_go_by_their_names(kind, peak):
    assert utilisation.device_flops(kind) == peak


def test_the_best_model_is_kept_and_what_is_held_out_is_written(text):
    result = type_train(text, "--evaluate-every", 1, "--tensorboard")
    assert result.exit_code == 0, result.output
    out = text.parent / "out"
    rows = read_metrics(out / METRICS)
    held_out = {step: row["held_out"] for step, row in rows.items()}
    assert sorted(held_out) == [1, 2, 3] and held_out[3] < held_out[1]
    (file,) = (out / "tensorboard").glob("events.*")
    assert b"held_out" in file.read_bytes()
    windows = spread_windows(
        split_bytes(read_bytes(text)).validation, count=64, length=SIZES["length"]
    )
    best = MambaLM.from_pretrained(out / "best")
    found = bits_per_token(best, windows)
    assert found == pytest.approx(min(held_out.values()), rel=1e-5)


def test_a_folder_of_pictures_trains_a_vim(tmp_path):
    pytest.importorskip("grain")
    for name, colour in {"blue": (0, 0, 255), "red": (255, 0, 0)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            picture = Image.new("RGB", (9 + number, 9), colour)
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    sizes = SIZES | {"image_size": 8, "patch_size": 4, "d-model": 8, "steps": 4,
                     "evaluate_every": 2, "batch": 2}  # fmt: skip
    result = type_train(tmp_path / "pictures", sizes=sizes)
    assert result.exit_code == 0, result.output
    assert "% of 2 pictures that were held out are right" in result.output
    out = tmp_path / "out"
    assert Vim.from_pretrained(out / "model").config.class_names == ("blue", "red")
    rows = read_metrics(out / METRICS)
    assert rows[2]["held_out"] > 0 and rows[2]["pictures_per_second"] > 0
    card = (out / "model" / "README.md").read_text()
    assert "of 2 pictures of pictures are right" in card and "blue, red" in card


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--coordinator", "localhost:1"], "--processes, --process must be given, too"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"],
         "--process 2: 2 processes have the numbers 0 to 1"),
        (["--coordinator", "h1", "--processes", "2", "--process", "1"],
         "--coordinator h1 is no HOST:PORT"),
        (["--coordinator", "localhost:9", "--processes", "2", "--process", "1"],
         "Nobody listens at localhost:9"),
    ],
)  # fmt: skip
def test_processes_that_cannot_be_joined_are_refused(text, typed, message, monkeypatch):
    monkeypatch.setattr("jmamba.commands.processes.LONGEST_START", 0)
    result = type_train(text, *typed)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
