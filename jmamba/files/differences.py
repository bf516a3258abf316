"""In what two settings differ: those a run was begun with, and those asked for."""

from collections.abc import Collection, Mapping
from typing import Any


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings within settings by names that points join.

    Examples:
      >>> flatten_settings({"steps": 9, "model": {"d_model": 8}})
      {'steps': 9, 'model.d_model': 8}
    """
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in flatten_settings(value).items()}
        else:
            flat[key] = value
    return flat


def differing_keys(
    found: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = ()
) -> list[str]:
    """Return the names of what differs, sorted.

    Args:
      found: flat settings that are there.
      wanted: flat settings that are asked for.
      free: names of what may differ.

    Examples:
      >>> differing_keys({"steps": 9, "seed": None}, {"steps": 12})
      ['seed', 'steps']
    """
    return [
        key
        for key in sorted({*found, *wanted})
        if (key in found, found.get(key)) != (key in wanted, wanted.get(key))
        and key not in free
    ]


def tell_differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], keys: Collection[str]
) -> str:
    """Return what each name was and is, for a message.

    Examples:
      >>> tell_differences({"steps": 9}, {"steps": 12, "seed": 1}, ["seed", "steps"])
      "seed was 'not there' and is 1; steps was 9 and is 12"
    """
    return "; ".join(
        f"{key} was {found.get(key, 'not there')!r} and is "
        f"{wanted.get(key, 'not there')!r}"
        for key in keys
    )
