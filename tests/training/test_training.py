import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jmamba
from jmamba.training import data, language, optimizer
from jmamba.training.bits_per_byte import bits_per_byte
from jmamba.training.config import TrainConfig
from jmamba.training.language import new_model, next_token_loss, train
from jmamba.training.loop import fit

CONFIG = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2, d_state=4)
TEXT = np.frombuffer(b"the cat sat on the mat. " * 200, np.uint8)


def run(config, **options):
    losses = []
    model = train(
        new_model(CONFIG, 0),
        TEXT,
        config,
        report=lambda r: losses.append(r.loss),
        **options,
    )
    return model, losses


def test_train_learns_a_repeating_text():
    config = TrainConfig(steps=60, batch=4, length=32, warmup=5, learning_rate=1e-2)
    model, losses = run(config)
    assert losses[0] == pytest.approx(math.log(256), rel=0.05)
    bits = bits_per_byte(model, TEXT[:960], streams=4, length=50)
    assert bits < 2.0


def test_train_goes_on_from_a_checkpoint(tmp_path):
    config = TrainConfig(steps=12, batch=2, length=16, warmup=2, save_every=4)
    model, losses = run(config)

    class Stop(Exception):
        pass

    def interrupt(report):
        if report.step == 10:
            raise Stop

    with pytest.raises(Stop):
        train(new_model(CONFIG, 0), TEXT, config, directory=tmp_path, report=interrupt)
    resumed, rest = run(config, directory=tmp_path)
    assert rest == losses[-len(rest) :] and 0 < len(rest) < 12
    same = jax.tree.map(jnp.array_equal, nnx.state(model), nnx.state(resumed))
    assert all(jax.tree.leaves(same))


def test_train_leaves_the_model_as_it_is():
    """A sweep over learning rates starts from one model each time."""
    model = new_model(CONFIG, 0)
    before = jax.tree.map(np.asarray, nnx.state(model))
    first = []
    for rate in (1e-3, 1e-2):
        config = TrainConfig(steps=2, batch=2, length=16, warmup=1, learning_rate=rate)
        losses = []
        train(model, TEXT, config, report=lambda r, to=losses: to.append(r.loss))
        first.append(losses[0])
    assert first[0] == first[1]
    same = jax.tree.map(np.array_equal, before, nnx.state(model))
    assert all(jax.tree.leaves(same))


MESH = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
SPREAD, WHOLE = NamedSharding(MESH, P("x")), NamedSharding(MESH, P())


def place_nowhere(model):
    return model


def place_on_one_device(model):
    return jax.device_put(model, jax.devices()[1])


def place_on_a_mesh(model):
    def place(x):
        return jax.device_put(x, SPREAD if x.shape[0] % 2 == 0 else WHOLE)

    return jax.tree.map(place, model)


@pytest.mark.parametrize(
    ("place", "batch"),
    [
        (place_nowhere, SPREAD),
        (place_on_one_device, None),
        (place_on_a_mesh, SPREAD),
    ],
)
def test_fit_goes_on_where_the_model_lies(tmp_path, place, batch):
    config = TrainConfig(steps=6, batch=2, length=16, warmup=2, save_every=2)

    def draw(step):
        windows = data.sample_windows(TEXT, batch=2, length=16, seed=0, step=step)
        return jax.device_put(windows, batch)

    def run(**options):
        model, losses = place(new_model(CONFIG, 0)), []
        report = options.pop("report", lambda r: losses.append(r.loss))
        fitted = fit(model, next_token_loss, draw, config, report=report, **options)
        return fitted, losses

    def interrupt(report):
        if report.step == 2:  # further ones may be begun
            raise KeyboardInterrupt

    model, losses = run()
    with pytest.raises(KeyboardInterrupt):
        run(directory=tmp_path, report=interrupt)
    resumed, rest = run(directory=tmp_path)
    assert rest == losses[-len(rest) :] and 0 < len(rest) < 6
    ours, theirs = nnx.state(model), nnx.state(resumed)
    assert_close(jax.device_get(ours), jax.device_get(theirs), 0)
    places = jax.tree.map(lambda x, y: x.sharding == y.sharding, ours, theirs)
    assert all(jax.tree.leaves(places))


def test_train_says_when_the_loss_breaks(monkeypatch):
    monkeypatch.setattr(language, "text_loss", lambda model, batch: jnp.float32("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0. Lower the"):
        run(TrainConfig(steps=3, batch=2, length=16, warmup=1))


def test_train_config_messages():
    with pytest.raises(ValueError, match="'batch': 0"):
        TrainConfig(steps=3, batch=0, length=16, warmup=1)
    with pytest.raises(ValueError, match="'warmup': 3"):
        TrainConfig(steps=3, batch=1, length=16, warmup=3)


def test_decay_mask_spares_time_scales():
    mask = optimizer.decay_mask(nnx.state(new_model(CONFIG, 0)))
    decayed = {
        "/".join(str(k.key) for k in path[:-1])
        for path, on in jax.tree.leaves_with_path(mask)
        if on
    }
    names = ("in_proj", "x_proj", "dt_proj", "out_proj")
    assert decayed == {f"layers/mixer/{name}/kernel" for name in names}


def test_schedule_rises_and_falls():
    schedule = optimizer.make_schedule(1.0, steps=100, warmup=10)
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100, 0.01)
        expected = [
            np.asarray(theirs(step)).item() for step in (0, 4, 10, 55, 100, 120)
        ]
    found = [schedule(step) for step in (0, 4, 10, 55, 100, 120)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_bits_per_byte_equals_one_pass():
    model = new_model(CONFIG, 1)
    text = TEXT[:120]
    logits = model(jnp.asarray(text[None, :-1].astype(np.int32))).logits
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.asarray(text[None, 1:].astype(np.int32))
    )
    expected = float(losses.mean()) / math.log(2)
    bits = bits_per_byte(model, text, streams=1, length=17)
    assert bits == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="120 bytes are too few for 100 streams"):
        bits_per_byte(model, text, streams=100)


def test_read_bytes_reads_plain_and_gzip(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc"))
    for name in ("a.txt", "a.gz"):
        assert data.read_bytes(tmp_path / name).tobytes() == b"abc"


def test_read_bytes_messages(tmp_path):
    whole = gzip.compress(bytes(range(256)) * 9)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "not.gz").write_bytes(b"plain text")
    with pytest.raises(ValueError, match="absent cannot be opened"):
        data.read_bytes(tmp_path / "absent")
    for name in ("cut.gz", "not.gz"):
        with pytest.raises(ValueError, match=f"Cannot read .*{name}"):
            data.read_bytes(tmp_path / name)
    with pytest.raises(ValueError, match="is empty; give a file with text"):
        data.read_bytes(tmp_path / "empty")


def test_split_bytes_is_the_usual_one():
    splits = data.split_bytes(np.zeros(1000, np.uint8))
    assert [len(part) for part in splits] == [900, 50, 50]
    with pytest.raises(ValueError, match="10 bytes are too few to split"):
        data.split_bytes(np.zeros(10, np.uint8))


def test_sample_windows_repeat_and_stay_inside():
    text = np.arange(100, dtype=np.uint8)
    draw = dict(batch=50, length=9, seed=3)
    first, second = (data.sample_windows(text, step=s, **draw) for s in (0, 1))
    assert first.shape == (50, 10) and np.all(np.diff(first, axis=1) == 1)
    assert np.array_equal(first, data.sample_windows(text, step=0, **draw))
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match="hold no window of 99"):
        data.sample_windows(text, batch=1, length=99, seed=0, step=0)
