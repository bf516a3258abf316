"""The Mamba-2 classifier of texts."""

import dataclasses

from jmamba.models.architecture import register
from jmamba.models.classes import Classes
from jmamba.models.classifier_architecture import classifier_architecture
from jmamba.models.mamba2.architecture import MAMBA2
from jmamba.models.mamba2.config import Mamba2Config
from jmamba.models.mamba2.model import Mamba2LM
from jmamba.models.text_classifier import TextClassifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2ClassifierConfig(Classes, Mamba2Config):
    """Describe a Mamba-2 classifier of texts.

    Its fields are those of `Mamba2Config` and of `Classes`.

    Raises:
      ValueError: a field is of another type or not in its range, or there is not a
        name for each class.

    Examples:
      >>> config = Mamba2ClassifierConfig(
      ...     vocab_size=256, d_model=64, num_layers=2, class_names=("bad", "good")
      ... )
      >>> config.num_classes, config.d_inner
      (2, 128)
    """


class Mamba2Classifier(TextClassifier):
    """A Mamba-2 classifier of texts; its arguments are `TextModel`'s.

    Examples:
      >>> from flax import nnx
      >>> config = Mamba2ClassifierConfig(
      ...     vocab_size=256, d_model=64, num_layers=2, pad_token_id=0
      ... )
      >>> model = Mamba2Classifier(config, rngs=nnx.Rngs(0))
      >>> model([[*b"hi", 0, 0], [0, *b"you"]]).shape
      (2, 2)
    """

    config: Mamba2ClassifierConfig
    language_class = Mamba2LM
    config_class = Mamba2ClassifierConfig


MAMBA2_CLASSIFIER = register(classifier_architecture(MAMBA2, Mamba2Classifier))
"""Classifiers upon Mamba-2."""
