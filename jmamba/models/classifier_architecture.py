"""Classifiers among the architectures: a language model's files with another head."""

from collections.abc import Mapping, Sequence
from typing import Any

from jmamba.files.keys import TRANSPOSE, Row
from jmamba.models.architecture import Architecture, Raw, Shapes, registered
from jmamba.models.classes import read_class_names
from jmamba.models.dialects import names_classifier
from jmamba.models.language_model import LanguageModel
from jmamba.models.mixer_keys import HEAD_KEY
from jmamba.models.text_classifier import TextClassifier, extend_config

SCORE = Row("score.weight", ("score",), TRANSPOSE, aliases=("classifier.weight",))
"""The head's tensor, as transformers' ...ForSequenceClassification call it."""


def classifier_architecture(
    language: Architecture, model_class: type[TextClassifier]
) -> Architecture:
    """Return the architecture of classifiers upon a language model's blocks.

    Their config.json is the language model's, whose "architectures" end in
    ForSequenceClassification and whose "id2label" names the classes.

    Args:
      language: the language model's.
      model_class: the classifiers.
    """
    config_class = model_class.config_class
    assert language.read_config is not None and language.write_config is not None
    reads, writes = language.read_config, language.write_config

    def read_config(raw: Raw) -> tuple[Any, str]:
        config, layout = reads(raw)
        return extend_config(config_class, config, **_read_classes(raw)), layout

    def write_config(config: Any, *, dtype: str) -> dict[str, Any]:
        raw = writes(config, dtype=dtype)
        names = config.class_names or tuple(
            f"LABEL_{i}" for i in range(config.num_classes)
        )
        kinds = [one.replace("ForCausalLM", ENDING) for one in raw["architectures"]]
        return raw | {
            "architectures": kinds,
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }

    return Architecture(
        name=f"{language.name}_classifier",
        model_class=model_class,
        config_class=config_class,
        owns=lambda raw: (
            names_classifier(raw) and raw.get("model_type") in language.model_types
        ),
        read_config=read_config,
        write_config=write_config,
        tables={
            layout: (*(row for row in rows if row.key != HEAD_KEY), SCORE)
            for layout, rows in language.tables.items()
        },
        layout_to_write=language.layout_to_write,
        base_prefix=language.base_prefix,
        explain=lambda found, config: (
            explain_scoreless(found) or language.explain(found, config)
        ),
        refusal=lambda config: f"is a {model_class.__name__}",
        tokenizer_of=language.tokenizer_of,
    )


def make_classifier(
    model: LanguageModel, classes: int | Sequence[str], **options: Any
) -> TextClassifier:
    """Return a classifier that reads texts as a language model does, of its own kind.

    Args:
      model: the language model.
      classes: what they are called, or how many there are.
      **options: of `TextClassifier.from_language_model`.

    Raises:
      TypeError: there is no classifier upon such models.

    Examples:
      >>> import jmamba
      >>> from flax import nnx
      >>> config = jmamba.MambaConfig(vocab_size=9, d_model=8, num_layers=1)
      >>> model = jmamba.MambaLM(config, rngs=nnx.Rngs(0))
      >>> type(make_classifier(model, 3)).__name__
      'MambaClassifier'
    """
    kinds = [one.model_class for one in registered()]
    kinds = [kind for kind in kinds if issubclass(kind, TextClassifier)]
    for kind in kinds:
        if isinstance(model, kind.language_class):
            return kind.from_language_model(model, classes, **options)
    known = ", ".join(kind.language_class.__name__ for kind in kinds)
    raise TypeError(
        f"There is no classifier upon a {type(model).__name__}; give a model of "
        f"{known}."
    )


ENDING = "ForSequenceClassification"
"""What the class in "architectures" ends in."""


def explain_scoreless(found: Shapes) -> str | None:
    """Say what to do with weights that have no head of classes; None if they have."""
    if {SCORE.key, *SCORE.aliases} & set(found):
        return None
    return (
        f"The weights have no {SCORE.key}, as those of a language model: load them by "
        "LanguageModel.from_pretrained, and type MambaClassifier.from_language_model("
        "model, classes=[...]) for a head to train."
    )


def _read_classes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return number and names of the classes that a config.json tells."""
    if raw.get("id2label") is None:
        return {"num_classes": raw.get("num_labels", 2)}
    names = read_class_names(raw["id2label"])
    are_made_up = names == tuple(f"LABEL_{i}" for i in range(len(names)))
    return {"num_classes": len(names), "class_names": () if are_made_up else names}
