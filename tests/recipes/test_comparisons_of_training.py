"""Language and reordering: each variant at its own learning rate, run to the tables."""

import dataclasses
import gzip

import numpy as np
import pytest

from jmamba.recipes import language, reordering
from jmamba.recipes.fashion import FILES
from jmamba.recipes.pictures import load_pictures
from jmamba.recipes.sweeps import choose_rates, sweep_rates, write_sweep
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig


def write_fashion(folder):
    """Write idx files of few pictures, whose first pixel says which one it is."""
    for (images, labels), count in zip(FILES.values(), (48, 12), strict=True):
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels[:, 0, 0] = np.arange(count) + 1
        for name, array in ((images, pixels), (labels, np.arange(count) % 10)):
            head = bytes((0, 0, 8, array.ndim))
            head += b"".join(n.to_bytes(4, "big") for n in array.shape)
            data = head + array.astype(np.uint8).tobytes()
            (folder / name).write_bytes(gzip.compress(data))
    return folder


def numbers_of(pictures):
    return {*np.round(255 * pictures.images[:, 0, 0, 0]).astype(int).tolist()}


def test_validation_garments_are_never_drawn(tmp_path):
    config = TrainConfig(steps=2, batch=1, warmup=1)
    bench = Workbench(
        tmp_path / "out", name="demo", config=config, data=write_fashion(tmp_path)
    )
    pictures = load_pictures("fashion", 28, bench)
    drawn = numbers_of(pictures.draw(2000, seed=0, step=0))
    assert drawn == {*range(1, 45)}
    assert numbers_of(pictures.validation(400)) == {*range(45, 49)}


def test_every_variant_has_its_own_rate(tmp_path):
    best = {"a": 0.2, "b": 0.4}
    found = sweep_rates(["a", "b"], (0.1, 0.2, 0.4), lambda n, r: -abs(r - best[n]))
    assert choose_rates(found) == best
    config = TrainConfig(steps=2, batch=1, warmup=1)
    bench = Workbench(tmp_path, name="demo", config=config)
    write_sweep(found, "distance", 0, bench)
    table, text = bench.sections
    assert "| a | 0.100 | 0.000 | 0.200 | 0.2 |" in table
    assert "At an end of the range: b." in text


def keep(module, names, monkeypatch):
    """Leave out the other variants of a recipe: every training is compiled."""
    few = {name: module.VARIANTS[name] for name in names}
    monkeypatch.setattr(module, "VARIANTS", few)
    pairs = [pair for pair in module.PAIRS if {*pair} <= {*few}]
    monkeypatch.setattr(module, "PAIRS", pairs)


def test_language_runs_to_its_tables(tmp_path, monkeypatch):
    keep(language, ("free", "pos"), monkeypatch)
    (tmp_path / "text").write_bytes(bytes(range(32, 122)) * 40)
    config = dataclasses.replace(
        language.SIZES["quick"], corpus=str(tmp_path / "text"), d_model=8,
        num_layers=1, d_state=2, steps=2, batch=2, length=8, measured=64,
        learning_rates=(4e-3,),
    )  # fmt: skip
    bench = Workbench(tmp_path / "out", name="language", config=config)
    language.run(config, bench)
    found = bench.finish().read_text()
    for part in ("Learning rates: bits per byte", "| gates | parameters |",
                 "would have been seen from", "over all 1",
                 "learning.png"):  # fmt: skip
        assert part in found


@pytest.mark.exhaustive
def test_reordering_runs_to_its_tables(tmp_path, monkeypatch):
    keep(reordering, ("not reordered", "shuffled"), monkeypatch)
    config = dataclasses.replace(
        reordering.SIZES["quick"], patch_size=14, d_model=8, num_layers=2, d_state=2,
        steps=4, batch=2, measured=6, learning_rates=(3e-3,),
    )  # fmt: skip
    bench = Workbench(
        tmp_path / "out", name="reordering", config=config, data=write_fashion(tmp_path)
    )
    reordering.run(config, bench)
    found = bench.finish().read_text()
    for part in ("Learning rates: share", "| shuffled |", "would have been seen from",
                 "over all 1", "learning.png"):  # fmt: skip
        assert part in found
