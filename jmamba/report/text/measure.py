"""Explain what a model predicts of a text: the numbers behind the report."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np

from jmamba.attention import Contrast, explain
from jmamba.dynamics import jacobian_norms, layer_span
from jmamba.figures.labels import split_pieces, token_labels
from jmamba.files.tokenizer import Tokenizer
from jmamba.models.text_model import TextModel
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import (
    DEFAULT_METHOD,
    check_logits,
    check_question,
    choose_large_layers,
    encode,
)
from jmamba.report.depth import measure_depth
from jmamba.report.environment import environment
from jmamba.report.outcomes import outcomes_of
from jmamba.report.predictions import (
    best_predictions,
    name_predictions,
    read_prediction,
)
from jmamba.report.relevance import measure_relevance
from jmamba.report.size import size_of
from jmamba.report.text.cost import plan_costs
from jmamba.report.text.explanation import Explanation
from jmamba.report.text.left_out import leave_out
from jmamba.report.text.pairs import join_pairs, measure_layer_pairs

STAGES = (
    "prediction",
    "leaving out each token",
    "relevance",
    "hidden attention",
    "token Jacobian",
)


def explain_text(
    model: TextModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    layers: Sequence[int] | None = None,
    method: str = DEFAULT_METHOD,
    settings: str | None = None,
    all_methods: bool = False,
    target: int | str | None = None,
    against: int | str | None = None,
    top: int = 8,
    matrices: bool | None = None,
    groups: bool | None = None,
    jacobian: bool | None = None,
    probes: int | None = None,
    max_tokens: int = 512,
    name: str = "model",
    progress: Progress = ignore,
) -> Explanation:
    """Compute what a model predicts of a text, and what made it do so.

    What drove it is measured by leaving out each token in turn, and by a method of
    explanation.

    Args:
      model: a language model, or a classifier of texts.
      tokenizer: its tokenizer.
      text: the text.
      layers: layers to draw large, counted from 0, negative ones from the end; None
        for about a quarter, half and three quarters of the depth and the last.
      method: an explanation of `jmamba.attention.METHODS`.
      settings: of the method, a name in `jmamba.attention.PRESETS`; None for its usual
        ones.
      all_methods: whether to compute all other explanations too.
      target: the next token to explain, its text or its id, or the class, its name or
        its number; None for the likeliest.
      against: another, to ask why the target rather than this; None to ask why the
        target at all.
      top: how many of the likeliest next tokens or classes to keep.
      matrices: whether to compute hidden attention between all pairs of tokens, and
        not only what the last token attends to; None for yes unless the text has more
        than `max_tokens`.
      groups: whether to compute such matrices of groups of channels, of all channels
        with what is around the recurrence folded in, and their rollout, too; None for
        yes where `matrices` are computed and it does not take long.
      jacobian: whether to compute the norms of the Jacobian's blocks; None for yes
        unless that takes long.
      probes: random directions per token for those norms, d_model or more for exact
        ones; None for as many as take a moment, 16 at most.
      max_tokens: longest text for which to compute `matrices`.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Returns:
      Everything that `write_text` draws.

    Raises:
      ValueError: the text is empty, too long for what is asked for, or has tokens the
        model does not know; there is no such layer, method, setting, next token or
        class; `top` or `probes` is less than 1; logits or relevance are not finite.

    Examples:
      >>> from flax import nnx
      >>> from jmamba import MambaConfig, MambaLM
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> config = MambaConfig(vocab_size=256, d_model=16, num_layers=2)
      >>> model = MambaLM(config, rngs=nnx.Rngs(0))
      >>> found = explain_text(model, ByteTokenizer(), "hello")
      >>> found.left_out.shape, found.attention.shape, found.jacobian.shape
      ((5,), (2, 5, 5), (5, 5))

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", arXiv 2403.01590.
      Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space
      Models", arXiv 2410.03292.
    """
    ids = encode(tokenizer, text)
    chosen = choose_large_layers(layers, model.config.num_layers)
    usual = check_question(method, settings, top)
    outcomes = outcomes_of(model, tokenizer)
    wanted = [
        None if one is None else outcomes.choose(one)
        for one in (target, *([] if against is None else [against]))
    ]
    plan = plan_costs(
        len(ids),
        size_of(model),
        matrices=matrices,
        groups=groups,
        jacobian=jacobian,
        probes=probes,
        max_tokens=max_tokens,
    )
    tokens = jnp.asarray(ids, jnp.int32)[None]
    timings: dict[str, float] = {}

    with timed(STAGES[0], timings, progress):
        logits = read_prediction(model, tokens)
        check_logits(logits, name)
    pieces = split_pieces(text, tokenizer.offsets(text))
    question = [int(np.argmax(logits)) if one is None else one for one in wanted]
    with timed(STAGES[1], timings, progress):
        left_out = leave_out(model, ids, pieces, logits, question)
    with timed(STAGES[2], timings, progress):
        asked = question[0] if against is None else Contrast(*question)
        relevance = measure_relevance(
            partial(_ask, model, tokens, asked),
            method,
            usual,
            all_methods=all_methods,
            progress=partial(progress, STAGES[2]),
        )
    with timed(STAGES[3], timings, progress):
        depth = measure_depth(
            model,
            tokens,
            rows=None if plan.matrices else [-1],
            look=measure_layer_pairs if plan.groups else None,
            progress=partial(progress, STAGES[3]),
        )
    pairs = join_pairs(depth.looks) if plan.groups else None
    blocks = None
    if plan.probes is not None:
        with timed(STAGES[4], timings, progress):
            blocks = _differentiate(model, tokens, plan.probes)

    label, kind = partial(outcomes.label, ids[-1]), outcomes.kind
    return Explanation(
        model=name,
        text=text,
        ids=np.asarray(ids, np.int32),
        pieces=tuple(pieces),
        labels=tuple(token_labels(pieces, tokenizer.pieces(ids))),
        layers=chosen,
        predictions=best_predictions(logits, top, label, kind),
        question=name_predictions(logits, question, label, kind),
        left_out=left_out,
        relevance=relevance.by,
        last_attention=depth.attention[:, -1],
        attention=depth.attention if plan.matrices else None,
        norms=depth.norms,
        jacobian=blocks,
        groups={} if pairs is None else pairs.groups,
        folded=None if pairs is None else pairs.folded,
        rollout=None if pairs is None else pairs.rollout,
        settings={
            "method": method,
            "settings": usual,
            "target": question[0],
            "against": question[1] if len(question) > 1 else None,
            "all_methods": all_methods,
            "layers": list(chosen),
            "top": top,
            "matrices": plan.matrices,
            "groups": plan.groups,
            "jacobian": plan.probes is not None,
            "probes": plan.probes,
            **({"skipped": plan.skipped} if plan.skipped else {}),
            "max_tokens": max_tokens,
            **relevance.notes,
            "dtype": jnp.dtype(model.dtype).name,
        },
        environment=environment(),
        timings=timings,
    )


def _ask(model, tokens, target, method, **options):
    found = explain(model, tokens, method, target=target, **options)
    return np.asarray(found[0], np.float32)


def _differentiate(model, tokens, probes):
    """Return the norms of the Jacobian's blocks through all layers, (l, l)."""
    x = model.embed(tokens)[0]
    exact = probes >= x.shape[1]  # as many directions as there are axes
    norms = jacobian_norms(layer_span(model), x, probes=None if exact else probes)
    return np.asarray(norms, np.float32)
