"""Dtypes of a model that is loaded: what it computes in and what it stores."""

from collections import Counter
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

_NAMES = ("float32", "bfloat16", "float16", "float64")


def choose_dtypes(dtype, param_dtype, stored: str) -> tuple[np.dtype, np.dtype]:
    """Return the compute dtype and the dtype of stored weights.

    Args:
      dtype: for both, "auto" for the checkpoint's own, None for float32.
      param_dtype: for stored weights, if they are to differ.
      stored: the checkpoint's own.

    Raises:
      ValueError: a dtype is not a floating one, or is float64 while jax_enable_x64 is
        off.

    Examples:
      >>> [str(d) for d in choose_dtypes("bfloat16", "float32", "float16")]
      ['bfloat16', 'float32']
      >>> [str(d) for d in choose_dtypes("auto", None, "float16")]
      ['float16', 'float16']
    """
    compute = _parse("float32" if dtype is None else dtype, stored)
    return compute, compute if param_dtype is None else _parse(param_dtype, stored)


def check_dtype(dtype) -> None:
    """Raise unless weights can be stored or computed with in a dtype.

    Args:
      dtype: what was asked for; "auto" and None are fine.

    Raises:
      ValueError: it is no floating dtype, or float64 while jax_enable_x64 is off.

    Examples:
      >>> check_dtype("bfloat16")
    """
    choose_dtypes(dtype, None, "float32")


def _parse(dtype, stored: str) -> np.dtype:
    try:
        found = jnp.dtype(
            stored if isinstance(dtype, str) and dtype == "auto" else dtype
        )
    except TypeError:
        found = None
    if found is None or found.name not in _NAMES:
        raise ValueError(
            f"dtype must be one of {', '.join(_NAMES)} or auto, but is {dtype!r}."
        )
    if found.name == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            'dtype is float64, which jax turns off: type jax.config.update("jax_enable_'
            'x64", True) before anything else, or choose float32.'
        )
    return found


def main_dtype(dtypes: Iterable[str]) -> str:
    """Return the dtype that most tensors have: files mix float16 with float32 A_log.

    Examples:
      >>> main_dtype(["float16", "float32", "float16"])
      'float16'
    """
    return Counter(dtypes).most_common(1)[0][0]
