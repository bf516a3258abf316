"""The model card that comes with a trained model."""

from pathlib import Path
from typing import NamedTuple

from jmamba.files.exchange import write_file
from jmamba.models.mamba.config import MambaConfig
from jmamba.training.config import TrainConfig


class Result(NamedTuple):
    """What a training run was and what came out of it."""

    data: str
    sizes: tuple[int, int]  # bytes trained on, bytes measured
    command: str
    settings: TrainConfig
    bits_per_byte: float
    earlier_steps: tuple[int, ...] = ()  # for which the run was begun, then extended


def write_card(folder: Path, config: MambaConfig, result: Result) -> None:
    """Write README.md beside a model."""
    write_file(folder / "README.md", make_card(config, result))


def make_card(config: MambaConfig, result: Result) -> str:
    """Return the text of a model card.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> settings = TrainConfig(steps=300, batch=4, length=64)
      >>> result = Result("enwik8.gz", (900, 50), "jmamba train ...", settings, 2.5)
      >>> "2.500 bits per byte" in make_card(config, result)
      True
    """
    settings = result.settings
    gates = "" if config.definite == "free" else f", gates {config.definite}"
    trained = settings.steps * settings.batch * settings.length
    earlier = ", then ".join(f"{steps:,}" for steps in result.earlier_steps)
    begun = f", begun for {earlier} and extended" if earlier else ""
    return f"""# A byte-level Mamba

A Mamba-1 language model whose tokens are the bytes of UTF-8 text.

| | |
|---|---|
| result | **{result.bits_per_byte:.3f} bits per byte** on the last {result.sizes[1]:,} bytes of {result.data} |
| layers, width | {config.num_layers} blocks, d_model {config.d_model}, d_inner {config.d_inner}, d_state {config.d_state}{gates} |
| trained on | {trained:,} bytes drawn from the first {result.sizes[0]:,} bytes of {result.data} |
| steps | {settings.steps:,} of {settings.batch} sequences of {settings.length} bytes{begun} |
| optimizer | {settings.optimizer}, cosine from {settings.learning_rate:g} after {settings.warmup} warmup steps, weight decay {settings.weight_decay:g} on projections |

```
{result.command}
```

The test bytes are read in 16 streams from front to back, each with the whole of its
past as context. The data of enwik8 are Wikipedia text (CC BY-SA); the model knows
early 2006's English Wikipedia markup and little else. It is small: use it to look
inside a trained Mamba, not for its opinions.
"""  # noqa: E501
