"""Explain what a model sees in an image: the numbers behind the report."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmamba.attention import Contrast, explain, patch_grid
from jmamba.attention.question import TargetChoice
from jmamba.models.vim.images import (
    normalise,
    open_image,
    preprocessing_of,
    resize_and_crop,
    resize_whole,
)
from jmamba.models.vim.model import Vim
from jmamba.progress import Progress, ignore, timed
from jmamba.report.choices import (
    DEFAULT_METHOD,
    check_logits,
    check_question,
    choose_large_layers,
)
from jmamba.report.depth import measure_depth
from jmamba.report.environment import environment
from jmamba.report.image.explanation import ImageExplanation, Reading, Region
from jmamba.report.outcomes import choose_class, label_class
from jmamba.report.predictions import CLASSES, best_predictions
from jmamba.report.relevance import measure_relevance

STAGES = ("prediction", "relevance", "hidden attention")


def explain_image(
    model: Vim,
    image: Any,
    *,
    method: str = DEFAULT_METHOD,
    target: int | str | None = None,
    against: int | str | None = None,
    settings: str | None = None,
    layers: Sequence[int] | None = None,
    top: int = 5,
    crop: bool = False,
    all_methods: bool = False,
    matrices: bool = True,
    name: str = "model",
    progress: Progress = ignore,
) -> ImageExplanation:
    """Compute what a model sees in an image, and which parts of it made it so.

    The model reads the whole picture: its shorter side is resized to the model's own,
    the longer keeps its ratio, and the embedding of places is interpolated.

    Args:
      model: the model.
      image: a file, a `PIL.Image`, or an array of integers from 0 to 255.
      method: which explanation to draw large, a name in `jmamba.attention.METHODS`.
      target: the class to explain, its number or its name; None for the predicted one.
      against: another, to ask why the target and not this; None to ask why at all.
      settings: of the method, a name in `jmamba.attention.PRESETS`; None for its usual
        ones, which the other methods have in any case.
      layers: layers to draw large, counted from 0, negative ones from the end; None
        for about a quarter, half and three quarters of the depth and the last.
      top: how many of the likeliest classes to keep.
      crop: whether the model reads the middle square alone, in its own size.
      all_methods: whether to compute all other explanations too; those that refuse, for
        want of a class token or of memory, are named in the report's settings.
      matrices: whether to keep hidden attention between all pairs of tokens.
      name: name of the model in the report.
      progress: told how far each of `STAGES` is.

    Returns:
      Everything that `jmamba.report.write_image` draws.

    Raises:
      ValueError: the picture cannot be read; the method, the settings, the class or a
        layer do not exist; `top` is less than 1; logits or relevance are not finite.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.VimConfig(
      ...     d_model=16, num_layers=2, num_classes=2, image_size=32, patch_size=8,
      ...     class_names=("cat", "dog"),
      ... )
      >>> model = jmamba.Vim(config, rngs=nnx.Rngs(0))
      >>> photo = np.full((40, 60, 3), 128, np.uint8)
      >>> found = explain_image(model, photo, target="dog")
      >>> found.label, found.read_as, found.heat().shape
      ('dog', Reading(height=32, width=48, patch=8, stride=8), (40, 60))

    References:
      Ali, Zimerman & Wolf, "The Hidden Attention of Mamba Models", arXiv 2403.01590.
    """
    chosen = check_question(method, settings, top)
    config = model.config
    wanted = None if target is None else choose_class(config, target)
    other = None if against is None else choose_class(config, against)
    large = choose_large_layers(layers, config.num_layers)
    picture = open_image(image)
    pixels = (
        resize_and_crop(picture, **preprocessing_of(config))
        if crop
        else resize_whole(picture, config)
    )
    inputs = jnp.asarray(normalise(np.asarray(pixels, np.float32)[None] / 255))
    timings: dict[str, float] = {}

    with timed(STAGES[0], timings, progress):
        logits = np.asarray(model(inputs)[0])
        check_logits(logits, name)
        best = best_predictions(
            logits, top, lambda ids: tuple(label_class(config, i) for i in ids), CLASSES
        )
    explained = int(best.ids[0]) if wanted is None else wanted
    label = label_class(config, explained)
    if other is not None:
        label = f"{label} rather than {label_class(config, other)}"
    with timed(STAGES[1], timings, progress):
        relevance = measure_relevance(
            partial(
                _ask,
                model,
                inputs,
                explained if other is None else Contrast(explained, other),
            ),
            method,
            chosen,
            all_methods=all_methods,
            progress=partial(progress, STAGES[1]),
        )
    with timed(STAGES[2], timings, progress):
        attention = _attend(
            model, inputs, best.ids, matrices, partial(progress, STAGES[2])
        )
    return ImageExplanation(
        model=name,
        name=_name(image),
        picture=np.asarray(picture),
        seen=seen_region(*picture.size, crop=crop),
        read_as=Reading(pixels.height, pixels.width, config.patch_size, config.stride),
        predictions=best,
        target=explained,
        label=label,
        probability=float(jax.nn.softmax(logits.astype(np.float32))[explained]),
        method=method,
        relevance=relevance.by,
        layers=large,
        **attention,
        settings={
            "method": method,
            "settings": chosen,
            "target": explained,
            "against": other,
            "layers": list(large),
            "top": top,
            "all_methods": all_methods,
            "matrices": matrices,
            **relevance.notes,
            "crop": crop,
            "dtype": jnp.dtype(model.dtype).name,
        },
        environment=environment(),
        timings=timings,
    )


def seen_region(width: int, height: int, *, crop: bool) -> Region:
    """Return the part of a picture that a model reads: all, or the middle square.

    Examples:
      >>> seen_region(60, 40, crop=True)
      Region(top=0, left=10, height=40, width=40)
    """
    if not crop:
        return Region(0, 0, height, width)
    side = min(width, height)
    return Region((height - side) // 2, (width - side) // 2, side, side)


def _ask(
    model: Vim, inputs, target: TargetChoice, method: str, **options: Any
) -> Float[np.ndarray, "rows columns"]:
    found = explain(model, inputs, method, target=target, **options)
    return np.asarray(patch_grid(model, found, *inputs.shape[1:3])[0], np.float32)


def _attend(model: Vim, inputs, ids, matrices, progress) -> dict[str, Any]:
    """Return what `ImageExplanation` says of the layers."""
    rows, columns = model.config.grid_of(*inputs.shape[1:3])
    query = model.usual_query(rows * columns + (model.class_token is not None))
    few = None if matrices or query is None else [query]

    def read(x):
        return jax.nn.softmax(model.unembed(x)[0])[ids]

    depth = measure_depth(model, inputs, rows=few, read=read, progress=progress)
    if query is None:
        seen = depth.attention.mean(axis=1)
    else:
        row = depth.attention[:, query if few is None else 0]
        seen = np.delete(row, query, axis=1)
    return {
        "class_index": query,
        "class_attention": seen.reshape(-1, rows, columns),
        "attention": depth.attention if matrices else None,
        "reading": depth.readings.astype(np.float32),
        "norms": depth.norms,
    }


def _name(image: Any) -> str:
    return (
        str(image)
        if isinstance(image, str) or hasattr(image, "__fspath__")
        else "image"
    )
