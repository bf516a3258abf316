import dataclasses

import pytest

from jmamba import MambaConfig


def test_config_derives_sizes():
    config = MambaConfig(vocab_size=10, d_model=100, num_layers=1)
    assert (config.d_inner, config.dt_rank, config.is_falcon) == (200, 7, False)
    config = MambaConfig(
        vocab_size=10,
        d_model=100,
        num_layers=1,
        d_inner=30,
        dt_rank=2,
        mixer_rms_eps=1e-6,
    )
    assert (config.d_inner, config.dt_rank, config.is_falcon) == (30, 2, True)


@pytest.mark.parametrize(
    ("name", "d_inner", "dt_rank", "num_layers"),
    [
        ("mamba-130m", 1536, 48, 24),
        ("mamba-370m", 2048, 64, 48),
        ("mamba-790m", 3072, 96, 48),
        ("mamba-1.4b", 4096, 128, 48),
        ("mamba-2.8b", 5120, 160, 64),
        ("falcon-mamba-7b", 8192, 256, 64),
    ],
)
def test_config_named_has_released_sizes(name, d_inner, dt_rank, num_layers):
    config = MambaConfig.named(name)
    assert config.is_falcon == (name == "falcon-mamba-7b")
    assert config.tie_embeddings != config.is_falcon
    assert (config.d_inner, config.dt_rank) == (d_inner, dt_rank)
    assert (config.num_layers, config.d_state, config.d_conv) == (num_layers, 16, 4)


def test_config_named_lists_names():
    with pytest.raises(ValueError, match="Unknown .*'mamba-3b'.* mamba-130m, "):
        MambaConfig.named("mamba-3b")


def test_config_lists_all_wrong_sizes():
    with pytest.raises(ValueError, match="d_model must be .* is 0; d_state .* is -4"):
        MambaConfig(vocab_size=10, d_model=0, num_layers=1, d_state=-4, d_inner=2)


def test_config_is_a_static_value():
    config = MambaConfig(vocab_size=10, d_model=16, num_layers=1)
    assert hash(config) == hash(dataclasses.replace(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3  # pyright: ignore[reportAttributeAccessIssue] (the point)
