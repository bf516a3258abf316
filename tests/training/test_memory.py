"""Whether a run fits: what it needs at least, against what its devices have."""

import pytest

from jmamba import MambaConfig
from jmamba.training import TrainConfig, memory

CONFIG = MambaConfig(vocab_size=256, d_model=16, num_layers=2)


class Chip:
    device_kind = "TPU v5 lite"

    def memory_stats(self):
        return {"bytes_limit": 300_000}


def test_devices_of_a_mesh_add_up_and_parts_of_a_batch_do_not(monkeypatch):
    for name in ("devices", "local_devices"):
        monkeypatch.setattr(memory.jax, name, lambda: [Chip()])
    settings = TrainConfig(3, 4, 64, warmup=1)
    assert memory.mamba_training_bytes(CONFIG, 4, 64) == 460_800
    with pytest.raises(ValueError, match=r"needs.*1 x TPU v5 lite.*jmamba plan"):
        memory.check_training_memory(CONFIG, settings)
    memory.check_training_memory(CONFIG, settings, devices=2)
    parts = TrainConfig(3, 4, 64, warmup=1, accumulate=4)
    assert memory.mamba_training_bytes(CONFIG, 1, 64) == 239_616
    memory.check_training_memory(CONFIG, parts)
