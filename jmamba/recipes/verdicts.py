"""What a measured difference says of a claim."""

from collections.abc import Sequence

from jmamba.evaluation import Comparison, Interval, correct_for_many


def judge(difference: Interval) -> str:
    """Return what an interval of a difference says of a claim.

    Examples:
      >>> [judge(Interval(v, v - 1, v + 1)) for v in (2, 0, -2)]
      ['agrees', 'not decided', 'contradicts']
    """
    if difference.low > 0:
        return "agrees"
    return "contradicts" if difference.high < 0 else "not decided"


def decide(differences: Sequence[Comparison]) -> list[str]:
    """Return what several differences say of claims that they are above zero.

    Of all of them together the probability that any is called by mistake is at most
    0.05, by Holm's correction.

    Examples:
      >>> decide([Comparison(v, v - 1, v + 1, 0.02) for v in (2, -2)])
      ['holds', 'fails']
      >>> decide([Comparison(v, v - 1, v + 1, 0.03) for v in (2, -2)])
      ['undecided here', 'undecided here']
    """
    corrected = correct_for_many([one.p_value for one in differences])
    return [
        "undecided here" if p >= 0.05 else "holds" if one.value > 0 else "fails"
        for one, p in zip(differences, corrected, strict=True)
    ]
