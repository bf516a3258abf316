"""The classes that a head tells apart."""

import dataclasses
from typing import Any

from jmamba.layers.fields import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """Describe the classes that a head tells apart.

    Attributes:
      num_classes: how many there are.
      class_names: what they are called, in their order; () where that is not known.
    """

    num_classes: Rows = 2
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        """Check the fields of what it is mixed with, and the names."""
        checked = getattr(super(), "__post_init__", None)
        if checked is not None:
            checked()
        self.check_classes()

    def check_classes(self) -> None:
        """Raise unless all classes have a name, or none.

        Raises:
          ValueError: some have none, or there is a name too many.
        """
        if isinstance(self.class_names, list):  # to have a hash
            object.__setattr__(self, "class_names", tuple(self.class_names))
        if len(self.class_names) not in (0, self.num_classes):
            raise ValueError(
                f"{type(self).__name__}: {len(self.class_names)} class_names for "
                f"{self.num_classes} classes; give one for each, or none."
            )


def read_class_names(labels: Any) -> tuple[str, ...]:
    """Return the names of classes 0, 1, ... that an "id2label" holds.

    Raises:
      ValueError: a class has none.

    Examples:
      >>> read_class_names({"1": "dog", "0": "cat"})
      ('cat', 'dog')
    """
    numbers = {str(i) for i in range(len(labels))} if isinstance(labels, dict) else None
    if numbers is None or set(labels) != numbers:
        raise ValueError(
            '"id2label" must map "0", "1", ... to the names of the classes, '
            f"but is {str(labels)[:80]}."
        )
    return tuple(labels[str(i)] for i in range(len(labels)))
