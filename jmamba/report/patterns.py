"""Hidden attention in the shapes that other viewers take: BertViz and CircuitsVis."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.attention import factorise, hidden_attention
from jmamba.figures.labels import split_pieces, token_labels
from jmamba.files.tokenizer import Tokenizer
from jmamba.models.language_model import LanguageModel
from jmamba.report.choices import encode
from jmamba.report.text.explanation import Explanation, shares
from jmamba.report.text.pairs import reach
from jmamba.requests import choose_layers
from jmamba.tracing.trace import trace


class HeadPatterns(NamedTuple):
    """Attention of the layers of one text, head by head.

    Attributes:
      labels: one readable label per token.
      layers: which layers, counted from 0.
      attention: of each layer, (heads, reading token, token that is read).
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    attention: list[Float[np.ndarray, "h l l"]]

    def bertviz(self) -> dict[str, Any]:
        """Return what `bertviz.head_view` and `model_view` take.

        They want torch: `head_view([torch.from_numpy(a) for a in found["attention"]],
        found["tokens"])`.

        Returns:
          attention: of each layer, (1, heads, l, l); tokens: labels.

        Raises:
          ValueError: layers have different numbers of heads, which BertViz cannot take.

        References:
          Vig, "A Multiscale Visualization of Attention in the Transformer Model",
          arXiv 1906.05714; the docstring of `head_view`.
        """
        counts = {len(heads) for heads in self.attention}
        if len(counts) > 1:
            raise ValueError(
                f"Layers have {', '.join(map(str, sorted(counts)))} heads, but BertViz "
                "takes as many in each: give head_patterns(..., groups=4), or layers "
                "of one kind."
            )
        return {
            "attention": [heads[None] for heads in self.attention],
            "tokens": list(self.labels),
        }

    def circuitsvis(self, layer: int) -> dict[str, Any]:
        """Return what `circuitsvis.attention.attention_patterns` takes, of a layer.

        Call it as `attention_patterns(**patterns.circuitsvis(3))`.

        Args:
          layer: one of `layers`.

        Returns:
          tokens: labels; attention: (heads, destination token, source token).

        Raises:
          ValueError: the layer is not among these.

        References:
          The docstring of `attention_patterns`.
        """
        if layer not in self.layers:
            raise ValueError(
                f"Layer {layer} is not among these: give one of "
                f"{', '.join(map(str, self.layers))}."
            )
        heads = self.attention[self.layers.index(layer)]
        return {"tokens": list(self.labels), "attention": heads}


def head_patterns(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    groups: int | None = None,
    fold: Collection[str] = (),
    signed: bool = False,
) -> HeadPatterns:
    """Return hidden attention head by head, for other viewers.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      text: the text.
      layers: which, negative ones from the end; None for all.
      heads: which heads, in Mamba-1 channels; None for all, which are hundreds.
      groups: means over so many groups of them, sorted by how far back they read; None
        for each by itself.
      fold: what is folded in, see `hidden_attention`.
      signed: whether to keep alpha itself, which may be negative; otherwise |alpha|
        divided by the sum of its row, as a softmax's weights are.

    Raises:
      ValueError: there is no such layer or head, there are fewer heads than groups, the
        text is empty, or the matrices take too much memory.

    Examples:
      >>> from flax import nnx
      >>> from jmamba import MambaConfig, MambaLM
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = MambaConfig(vocab_size=256, d_model=8, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = head_patterns(model, ByteTokenizer(), "abc", groups=2)
      >>> [heads.shape for heads in found.bertviz()["attention"]]
      [(1, 2, 3, 3), (1, 2, 3, 3)]
      >>> found.circuitsvis(1)["tokens"]
      ['a', 'b', 'c']
    """
    ids = encode(tokenizer, text)
    chosen = choose_layers(layers, model.config.num_layers)
    tokens = jnp.asarray(ids, jnp.int32)[None]
    attention = []
    for layer in chosen:
        traced = trace(model, tokens, layers=[layer])
        inputs = traced.layer(layer)
        if fold:
            inputs = factorise(model.layer(layer), traced.residual_in[0])
        alpha = hidden_attention(inputs, fold=fold, channels=heads)[0]
        alpha = np.asarray(alpha, np.float32)
        found = _group(alpha if signed else np.abs(alpha), groups)
        attention.append(found if signed else shares(found))
    pieces = split_pieces(text, tokenizer.offsets(text))
    labels = token_labels(pieces, tokenizer.pieces(ids))
    return HeadPatterns(tuple(labels), chosen, attention)


def explained_patterns(explanation: Explanation) -> HeadPatterns:
    """Return what an explanation holds of attention: groups of channels as heads.

    Args:
      explanation: of a text; one without groups has the mean of all channels as its
        only head.

    Raises:
      ValueError: it holds no attention between all tokens.
    """
    if explanation.attention is None:
        raise ValueError(
            "This explanation holds no attention between all tokens: make it with "
            "explain_text(..., matrices=True)."
        )
    of = list(explanation.groups.values()) or [explanation.attention]
    by_layer = np.stack(of, axis=1)  # g s l l -> s g l l
    layers = tuple(range(len(by_layer)))
    return HeadPatterns(explanation.labels, layers, list(shares(by_layer)))


def _group(alpha, count):
    """Return means over groups of heads, the nearest first."""
    if count is None:
        return alpha
    if not 1 <= count <= len(alpha):
        raise ValueError(
            f"groups={count}: give 1 to {len(alpha)}, the number of heads."
        )
    order = np.argsort(reach(np.abs(alpha)), kind="stable")
    return np.stack([alpha[part].mean(axis=0) for part in np.array_split(order, count)])
