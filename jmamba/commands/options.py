"""What commands that run a model on a text have in common: options, and loading."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jmamba.files.dtypes import check_dtype
from jmamba.files.untrusted import as_path

LARGEST_SEED = 2**32 - 1
"""What jax makes keys of."""

MOST = 10**7
"""Most of anything that is counted: tokens, probes, exponents."""


Model = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint folder, .gguf or Hub id; the embedded model if left out."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32 (if left out), bfloat16 or float16.")
]
MatrixWeights = Annotated[
    str | None, typer.Option("--weights", help="int8 for matrices in 8 bits.")
]
File = Annotated[
    Path | None,
    typer.Option(
        help="Read the text from a UTF-8 file.", parser=as_path, metavar="PATH"
    ),
]
Text = Annotated[str | None, typer.Argument(help='The text; "-" reads standard input.')]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a folder of other files.")
]


def load_text_model(
    model: str | None,
    revision: str | None,
    dtype: str | None,
    *,
    weights: str | None = None,
    sharding: Any = None,
    classifies: bool = False,
) -> tuple[Any, Any, str]:
    """Return a language model, its tokenizer and its name.

    Args:
      model: folder or Hub id; None for the embedded one.
      revision: on the Hub.
      dtype: of the weights.
      weights: "int8" for matrices in 8 bits.
      sharding: a `Sharding` over which it is laid; None for one device.
      classifies: whether it may be a classifier of texts as well.

    Raises:
      ValueError: a revision is given without a model, or as `from_pretrained` says.
    """
    from jmamba.models.quantisation import check_weights

    check_dtype(dtype)
    check_weights(weights)
    options: dict[str, Any] = {"dtype": dtype}
    if weights is not None:
        options["weights"] = weights
    if model is None:
        check_revision(revision)
        from jmamba.embedded.text import load_embedded

        loaded, tokenizer = load_embedded(**options)
        loaded = loaded if sharding is None else sharding.place_model(loaded)
        return loaded, tokenizer, "embedded byte-level model"
    from jmamba import LanguageModel
    from jmamba.models.text_model import TextModel
    from jmamba.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(model, revision=revision)
    kind = TextModel if classifies else LanguageModel
    loaded = kind.from_pretrained(
        model, revision=revision, sharding=sharding, **options
    )
    return loaded, tokenizer, model


def check_revision(revision: str | None) -> None:
    """Raise if a revision is asked for without a model.

    Raises:
      ValueError: it is.
    """
    if revision is not None:
        raise ValueError("--revision is for a model on the Hub; name it by --model.")
