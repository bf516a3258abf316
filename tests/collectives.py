"""What devices exchange in the compiled program of a function."""

import jax

from jmamba.planning.exchanges import Exchange, exchanges_in


def exchanges(function, *args) -> list[Exchange]:
    """Return what the devices exchange in the compiled program of a function."""
    return exchanges_in(jax.jit(function).lower(*args).compile().as_text() or "")
