"""Classes by the number or the name that a user types."""

import difflib

from jmamba.models.vim.config import VimConfig


def choose_class(config: VimConfig, target: int | str) -> int:
    """Return the number of a class that is given by number or name.

    Raises:
      ValueError: there is no such class, or the model has no names.

    Examples:
      >>> config = VimConfig(d_model=8, num_classes=2, class_names=("cat", "dog"))
      >>> [choose_class(config, target) for target in ("Dog", "1", 0)]
      [1, 1, 0]
    """
    count, names = config.num_classes, config.class_names
    text = str(target).strip()
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) < count:
            raise ValueError(
                f"There is no class {text}: the model tells {count} apart, 0 to "
                f"{count - 1}."
            )
        return int(text)
    if not names:
        raise ValueError(
            f"There is no class {text!r}, as the model's config.json names none: give "
            f'a number from 0 to {count - 1}, or add "id2label" to it.'
        )
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    near = difflib.get_close_matches(text.casefold(), folded, n=5, cutoff=0.5)
    shown = [names[folded.index(one)] for one in near] or list(names[:12])
    more = ", ..." if not near and len(names) > 12 else ""
    raise ValueError(
        f"There is no class {text!r}. {'Near are' if near else 'Classes are'} "
        f"{', '.join(shown)}{more}; a number from 0 to {count - 1} will do too."
    )


def label_of(config: VimConfig, number: int) -> str:
    """Return what a class is called, by its number if it has no name."""
    return config.class_names[number] if config.class_names else f"class {number}"
