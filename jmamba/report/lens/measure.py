"""What each layer of a model would say after each token of a text."""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jmamba.figures.labels import Piece, piece_labels, split_pieces, token_labels
from jmamba.files.tokenizer import Tokenizer
from jmamba.interventions.lens import LensReading, logit_lens, read_lens
from jmamba.interventions.tuned_lens import TunedLens
from jmamba.models.text_model import TextModel
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import check_logits, encode
from jmamba.report.display import Displayed
from jmamba.report.environment import environment
from jmamba.report.outcomes import outcomes_of
from jmamba.report.predictions import Predictions, best_predictions, read_prediction
from jmamba.requests import choose_layers

STAGES = ("lens", "last token")


@dataclasses.dataclass(frozen=True, repr=False)
class LensReport(Displayed):
    """What each layer would say; see `measure_lens`.

    `s` layers, `l` tokens, the `k` likeliest next tokens, or classes, of each.

    Attributes:
      model: name of the model.
      text: the text.
      ids: its tokens.
      pieces: the tokens as stretches of text.
      labels: one readable label per token.
      layers: which layers were read.
      predictions: the likeliest next tokens or classes of the whole model.
      reading: the lens at all layers and tokens, without the axis of samples.
      top_labels: a readable label of each of `reading.ids`.
      last: the probability of each of `predictions` in each layer, after the text.
      settings: what was asked for.
      environment: versions, device and implementation.
      timings: seconds per stage.
    """

    model: str
    text: str
    ids: Int[np.ndarray, "l"]
    pieces: tuple[Piece, ...]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    predictions: Predictions
    reading: LensReading
    top_labels: tuple[tuple[tuple[str, ...], ...], ...]
    last: Float[np.ndarray, "s k"]
    settings: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]

    def __repr__(self) -> str:
        """Return what was read, without the arrays."""
        return (
            f"LensReport of {self.text!r}: {len(self.labels)} tokens, "
            f"{len(self.layers)} layers; {self.verdict}"
        )

    @property
    def piece_labels(self) -> list[str]:
        """One readable label per piece."""
        return piece_labels(self.pieces, self.labels)

    @property
    def lens(self) -> str:
        """Which lens was used."""
        return "tuned lens" if self.settings["tuned"] else "logit lens"

    @property
    def settled(self) -> Int[np.ndarray, "l"]:
        """The first layer read from which on each token's prediction is the model's.

        -1 where not even the last layer that was read has it first.
        """
        agrees = self.reading.rank == 0
        stays = np.logical_and.accumulate(agrees[::-1], axis=0)[::-1]
        first = np.asarray(self.layers)[np.argmax(stays, axis=0)]
        return np.where(stays.any(axis=0), first, -1)

    @property
    def verdict(self) -> str:
        """From which layer on the model says what it says after the text."""
        best, layer = self.predictions.labels[0], int(self.settled[-1])
        if layer < 0:
            return f"no layer that was read finds {best} likeliest"
        return f"from layer {layer} on, {best} is likeliest"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to store, by name."""
        return {
            "token_ids": self.ids,
            "layers": np.asarray(self.layers, np.int32),
            "prediction_ids": self.predictions.ids,
            "prediction_probabilities": self.predictions.probabilities,
            "last_probabilities": self.last,
            "settled": self.settled,
            **{f"lens_{k}": v for k, v in self.reading._asdict().items()},
        }


def measure_lens(
    model: TextModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    layers: Sequence[int] | None = None,
    tuned: TunedLens | None = None,
    top: int | None = None,
    name: str = "model",
    progress: Progress = ignore,
) -> LensReport:
    """Read off each layer what it would say after each token of a text.

    A classifier says after each token what it would make of a text that ends there.

    Args:
      model: a language model, or a classifier of texts.
      tokenizer: its tokenizer.
      text: the text.
      layers: which to read, negative ones from the end; None for all.
      tuned: the tuned lens of this model; None for the logit lens.
      top: how many of the likeliest next tokens or classes to keep; None for five, or
        all if there are fewer.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Raises:
      ValueError: the text is empty or has tokens the model does not know, there is no
        such layer, `top` is out of range, or the lens is of another model.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = measure_lens(model, ByteTokenizer(), "hello", top=3)
      >>> found.reading.divergence.shape, found.last.shape
      ((2, 5), (2, 3))

    References:
      nostalgebraist, "Interpreting GPT: the logit lens", 2020; Belrose et al., arXiv
      2303.08112.
    """
    ids, outcomes = encode(tokenizer, text), outcomes_of(model, tokenizer)
    top = min(5, model.num_targets) if top is None else top
    chosen = choose_layers(layers, model.config.num_layers)
    tokens = jnp.asarray(ids, jnp.int32)[None]
    timings: dict[str, float] = {}
    with timed(STAGES[0], timings, progress):
        found = jax.device_get(
            read_lens(model, tokens, layers=chosen, tuned=tuned, top=top)
        )
        reading = LensReading(*(x[:, 0] for x in found))
    with timed(STAGES[1], timings, progress):
        options = {"positions": [-1], "tuned": tuned}
        logits = read_prediction(model, tokens)
        check_logits(logits, name)
        last = logit_lens(model, tokens, layers=chosen, **options)[:, 0, 0]
        shares = np.asarray(jax.nn.softmax(last))

    @cache
    def label(before: int, token: int) -> str:
        return outcomes.label(before, [token])[0]

    pieces = split_pieces(text, tokenizer.offsets(text))
    best = best_predictions(
        logits, top, partial(outcomes.label, ids[-1]), outcomes.kind
    )
    return LensReport(
        model=name,
        text=text,
        ids=np.asarray(ids, np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(ids))),
        layers=chosen,
        predictions=best,
        reading=reading,
        top_labels=tuple(
            tuple(
                tuple(label(before, one) for one in few)
                for before, few in zip(ids, row, strict=True)
            )
            for row in reading.ids.tolist()
        ),
        last=shares[:, best.ids],
        settings={
            "tuned": tuned is not None,
            "layers": list(chosen),
            "top": top,
            "dtype": jnp.dtype(model.dtype).name,
        },
        environment=environment(),
        timings=timings,
    )
