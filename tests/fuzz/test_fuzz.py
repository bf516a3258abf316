"""The fast part of the fuzzers: fixed seeds; the long one is a command, `damage.py`."""

import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from damage import LAYOUTS, run, stop


@pytest.mark.filterwarnings("ignore")  # of damaged files a library may warn
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_are_read_or_refused(layout, monkeypatch):
    before = signal.signal(signal.SIGALRM, stop)
    try:
        outcomes = run(8, 0, [layout], lambda outcome: None)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not [outcome for outcome in outcomes if outcome.is_bad]
