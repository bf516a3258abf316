"""Two texts whose tokens stand at the same places."""

from itertools import takewhile

from jmamba.files.tokenizer import Tokenizer
from jmamba.report.choices import encode


def encode_pair(
    tokenizer: Tokenizer, clean: str, corrupted: str
) -> tuple[list[int], list[int]]:
    """Return the tokens of two texts that have as many.

    Args:
      tokenizer: the model's.
      clean: a text.
      corrupted: another.

    Raises:
      ValueError: a text is empty, both are the same, or one has more tokens; the
        message says where they part.

    Examples:
      >>> from jmamba.checkpoints import ByteTokenizer
      >>> encode_pair(ByteTokenizer(), "hi", "ho")
      ([104, 105], [104, 111])
    """
    one, other = encode(tokenizer, clean), encode(tokenizer, corrupted)
    if one == other:
        raise ValueError(
            f"Both texts are {clean!r}: give two that differ in what is asked about, "
            'such as "was born in [[Germany" and "was born in ((Germany".'
        )
    if len(one) == len(other):
        return one, other
    start, stop = _common(one, other), _common(one[::-1], other[::-1])
    stop = min(stop, min(len(one), len(other)) - start)
    middle, instead = (ids[start : len(ids) - stop] for ids in (one, other))
    raise ValueError(
        f"The clean text has {len(one)} tokens and the corrupted one {len(other)}, but "
        "a patch goes from a token to the one at the same place. They part at token "
        f"{start}: {_count(tokenizer, middle)} there, {_count(tokenizer, instead)} "
        "here. Give two texts of as many tokens, such as "
        '"was born in [[Germany" and "was born in ((Germany".'
    )


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _count(tokenizer: Tokenizer, ids: list[int]) -> str:
    return f"{tokenizer.decode(ids)!r} is {len(ids)}"
