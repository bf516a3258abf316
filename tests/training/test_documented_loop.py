"""The loop that docs/training.md shows runs as it stands there, and learns."""

from pathlib import Path

import jax

PAGE = Path(__file__).parents[2] / "docs/training.md"


def test_the_documented_loop_trains_on_a_mesh():
    blocks = PAGE.read_text().split("```python\n")[1:]
    codes = [block.split("```")[0] for block in blocks]
    (code,) = (code for code in codes if "nnx.Optimizer" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    found: dict = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, str(PAGE), "exec"), found)
    model, losses = found["model"], found["losses"]
    assert model.embedding[...].sharding.spec == found["sharding"].spec("vm", (256, 64))
    assert losses[-1] < 0.5 * losses[0]
