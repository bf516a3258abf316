"""A tiny model in place of the embedded one."""

import pytest
from reports import tiny_model

from jmamba.checkpoints import ByteTokenizer


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """Use a tiny model for the embedded one, and write where nothing else is."""
    monkeypatch.setattr(
        "jmamba.embedded.text.load_embedded",
        lambda *, dtype=None: (tiny_model(), ByteTokenizer()),
    )
    monkeypatch.chdir(tmp_path)
