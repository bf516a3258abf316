"""The fast part of the kills: fixed moments; the long one is a command, `kill.py`."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kill import SAVE, leftovers

from jmamba.files.checksums import compare_checksums
from jmamba.files.exchange import recover


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_save_leaves_a_whole_model_and_nothing_else(seed, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SAVE.replace("TIMES", "10**6"), out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "saved\n"
        time.sleep(random.Random(seed).uniform(0, 0.2))
        process.kill()
    recover(out)
    assert compare_checksums(out) >= 2
    assert leftovers(out) == []
