"""The order in which rows come."""

from typing import Any


def make_order(rows: int, seed: int) -> Any:
    """Return a sequence, place -> row: all rows epoch by epoch, each time shuffled.

    Nothing of it is held in memory.

    Args:
      rows: in an epoch.
      seed: of the order.

    Raises:
      ValueError: Grain is not installed.

    References:
      Grain, `grain.MapDataset`.
    """
    try:
        import grain
    except ImportError as error:
        raise ValueError(
            "The order of what is trained on is made by Grain, which is not "
            'installed: type pip install "jmamba[data]".'
        ) from error
    return grain.MapDataset.range(rows).seed(seed).shuffle().repeat()
