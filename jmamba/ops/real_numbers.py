"""Operands that are not real floating-point numbers, and what to do about them."""

from typing import Any

import jax.numpy as jnp

_COMPLEX = {
    "A": "A complex rate a - i w turns the state by w with every step, which no real "
    "rate does: a cast would drop the rotation and compute another layer. Give a model "
    "that was trained with real rates, as Mamba's are, or compute the complex "
    "recurrence itself, h = exp(delta A) h + delta B u, with "
    "jax.lax.associative_scan.",
    "C": "Of a real recurrence y is linear in C: call it with jnp.real(C) and with "
    "jnp.imag(C), and add 1j times the second.",
}


def advise_real(name: str, dtype: Any) -> str:
    """Return the sentence that says what to give in place of an operand.

    Args:
      name: of the operand.
      dtype: what it has.

    Examples:
      >>> advise_real("u", jnp.int32)
      'Convert it first, for example u.astype(jnp.float32).'
    """
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return f"Convert it first, for example {name}.astype(jnp.float32)."
    return _COMPLEX.get(
        name,
        "A cast would drop its imaginary part. If that is zero throughout, which "
        f"jnp.abs(jnp.imag({name})).max() says, give jnp.real({name}).",
    )
