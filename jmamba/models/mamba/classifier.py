"""The Mamba-1 or Falcon-Mamba classifier of texts."""

import dataclasses

from jmamba.models.architecture import register
from jmamba.models.classes import Classes
from jmamba.models.classifier_architecture import classifier_architecture
from jmamba.models.mamba.architecture import MAMBA
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.mamba.model import MambaLM
from jmamba.models.text_classifier import TextClassifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class MambaClassifierConfig(Classes, MambaConfig):
    """Describe a Mamba-1 or Falcon-Mamba classifier of texts.

    Its fields are those of `MambaConfig` and of `Classes`.

    Raises:
      ValueError: a field is of another type or not in its range, or there is not a
        name for each class.

    Examples:
      >>> config = MambaClassifierConfig(
      ...     vocab_size=256, d_model=64, num_layers=2, class_names=("bad", "good")
      ... )
      >>> config.num_classes, config.d_inner
      (2, 128)
    """


class MambaClassifier(TextClassifier):
    """A Mamba-1 or Falcon-Mamba classifier of texts; its arguments are `TextModel`'s.

    Examples:
      >>> from flax import nnx
      >>> config = MambaClassifierConfig(
      ...     vocab_size=256, d_model=64, num_layers=2, pad_token_id=0
      ... )
      >>> model = MambaClassifier(config, rngs=nnx.Rngs(0))
      >>> model([[*b"hi", 0, 0], [0, *b"you"]]).shape
      (2, 2)
    """

    config: MambaClassifierConfig
    language_class = MambaLM
    config_class = MambaClassifierConfig


MAMBA_CLASSIFIER = register(classifier_architecture(MAMBA, MambaClassifier))
"""Classifiers upon Mamba-1 or Falcon-Mamba."""
