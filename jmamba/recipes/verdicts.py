"""What a measured difference says of a claim."""

from jmamba.evaluation import Interval


def judge(difference: Interval) -> str:
    """Return what an interval of a difference says of a claim.

    Examples:
      >>> [judge(Interval(v, v - 1, v + 1)) for v in (2, 0, -2)]
      ['agrees', 'not decided', 'contradicts']
    """
    if difference.low > 0:
        return "agrees"
    return "contradicts" if difference.high < 0 else "not decided"
