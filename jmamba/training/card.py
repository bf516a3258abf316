"""The model card that comes with a trained model."""

from pathlib import Path
from typing import NamedTuple

from jmamba.files.exchange import write_file
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.vim.config import VimConfig
from jmamba.training.config import TrainConfig

BY_STREAMS = """\
The test bytes are read in 16 streams from front to back, each with the whole of its
past as context."""
"""How the end of a text is measured."""

BY_ROWS = """\
The test rows are read each on its own, {length} tokens at most as context, and no
document in the light of another; {rows} of them were."""
"""How rows of tokenized texts are measured."""


BY_PICTURES = """\
Of each class {part:.0%} of the pictures, the last by name, are not trained on."""
"""How pictures are measured."""


class Result(NamedTuple):
    """What a training run was and what came out of it.

    Attributes:
      data: what the texts are called.
      sizes: tokens trained on, tokens held out.
      command: what to type to make the model again.
      settings: of the training.
      bits: per token of those held out; of pictures the part that is right.
      earlier_steps: for which the run was begun, then extended.
      unit: what a token is called.
      measured: a sentence on how what is held out was read.
    """

    data: str
    sizes: tuple[int, int]
    command: str
    settings: TrainConfig
    bits: float
    earlier_steps: tuple[int, ...] = ()
    unit: str = "byte"
    measured: str = BY_STREAMS


def write_card(folder: Path, config: MambaConfig | VimConfig, result: Result) -> None:
    """Write README.md beside a model."""
    write_file(folder / "README.md", make_card(config, result))


def make_card(config: MambaConfig | VimConfig, result: Result) -> str:
    """Return the text of a model card.

    Examples:
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> settings = TrainConfig(steps=300, batch=4, length=64)
      >>> result = Result("enwik8.gz", (900, 50), "jmamba train ...", settings, 2.5)
      >>> "2.500 bits per byte" in make_card(config, result)
      True
    """
    if isinstance(config, VimConfig):
        return _make_picture_card(config, result)
    settings = result.settings
    gates = "" if config.definite == "free" else f", gates {config.definite}"
    trained = settings.steps * settings.batch * settings.length
    begun = _tell_begun(result)
    unit, (train, test) = result.unit, result.sizes
    kind = "the bytes of UTF-8 text" if unit == "byte" else "those of its tokenizer"
    return f"""# A {unit}-level Mamba

A Mamba-1 language model whose tokens are {kind}.

| | |
|---|---|
| result | **{result.bits:.3f} bits per {unit}** on the last {test:,} {unit}s of {result.data} |
| layers, width | {config.num_layers} blocks, d_model {config.d_model}, d_inner {config.d_inner}, d_state {config.d_state}{gates} |
| trained on | {trained:,} {unit}s drawn from the first {train:,} {unit}s of {result.data} |
| steps | {settings.steps:,} of {settings.batch} sequences of {settings.length} {unit}s{begun} |
| optimizer | {settings.optimizer}, cosine from {settings.learning_rate:g} after {settings.warmup} warmup steps, weight decay {settings.weight_decay:g} on projections |

```
{result.command}
```

{result.measured} What the model knows is what these texts say.
"""  # noqa: E501


def _make_picture_card(config: VimConfig, result: Result) -> str:
    """Return the text of a model card of a classifier of pictures."""
    settings, (train, test) = result.settings, result.sizes
    names = ", ".join((config.class_names or ())[:20])
    more = "" if config.num_classes <= 20 else ", ..."
    return f"""# A Vision Mamba of {config.num_classes} classes

It tells apart {names}{more}.

| | |
|---|---|
| result | **{100 * result.bits:.1f} %** of {test:,} pictures of {result.data} are right |
| layers, width | {config.num_layers} blocks, d_model {config.d_model}, d_inner {config.d_inner}, d_state {config.d_state} |
| pictures | {config.image_size} pixels a side, patches of {config.patch_size} |
| trained on | {train:,} pictures |
| steps | {settings.steps:,} of {settings.batch} pictures{_tell_begun(result)} |
| optimizer | {settings.optimizer}, cosine from {settings.learning_rate:g} after {settings.warmup} warmup steps, weight decay {settings.weight_decay:g} on projections |

```
{result.command}
```

{result.measured} They are resized and their middle is kept.
"""  # noqa: E501


def _tell_begun(result: Result) -> str:
    """Return for how many steps a run was begun, if for others than it has."""
    earlier = ", then ".join(f"{steps:,}" for steps in result.earlier_steps)
    return f", begun for {earlier} and extended" if earlier else ""
