"""The classes that a head tells apart."""

import dataclasses

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
