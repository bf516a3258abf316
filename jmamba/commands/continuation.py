"""A continuation of a text, shown as it is made."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmamba.files.tokenizer import Tokenizer
from jmamba.generation.decoding import generate
from jmamba.generation.sampling import Sampling
from jmamba.models.mamba.model import MambaLM
from jmamba.report.labels import BROKEN


class Speed(NamedTuple):
    """How many tokens were made, and how fast.

    Attributes:
      tokens: how many.
      first: seconds until the first: compilation and prompt.
      rest: seconds from the first to the last.
    """

    tokens: int
    first: float
    rest: float

    def __str__(self):
        """Return the speed as a line."""
        line = f"{self.tokens} tokens, the first after {self.first:.2f} s"
        if self.tokens < 2:
            return line
        return line + f", then {(self.tokens - 1) / self.rest:.1f} tokens/s"


class TextStream:
    """Turns tokens into text one at a time, holding back unfinished characters.

    Args:
      decode: the tokenizer's map from ids to text.
      context: tokens before the first one.

    Examples:
      >>> stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), b"n")
      >>> [stream.push(token) for token in "é!".encode()]
      ['', 'é', '!']
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int]):
        self._decode = decode
        self._before = list(context[-4:])  # a decoder may need the word before
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that a token completes, empty if it completes none."""
        self._held.append(token)
        known = self._decode(self._before) if self._before else ""
        text = self._decode([*self._before, *self._held])
        # No character takes more than four bytes: what is longer will never be one.
        if text.endswith(BROKEN) and len(self._held) < 4:
            return ""
        self._before, self._held = self._held, []
        return text[len(known) :]

    def rest(self) -> str:
        """Return what is still held back."""
        return self._decode(self._held) if self._held else ""


def print_continuation(
    model: MambaLM,
    tokenizer: Tokenizer,
    prompt: str,
    write: Callable[[str], None],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int = 0,
) -> Speed:
    """Write a prompt and its continuation as it is made.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      prompt: the text to continue.
      write: called with each piece of text.
      max_new_tokens: most tokens to add.
      sampling: how tokens are drawn.
      seed: seed of the draws.

    Raises:
      ValueError: the prompt or a setting cannot be used.
      KeyboardInterrupt: Ctrl-C was pressed; the generation has stopped.
    """
    ids = tokenizer.encode(prompt)
    stream, stop = TextStream(tokenizer.decode, ids), Event()
    times = [time.perf_counter()]

    def tell(tokens, running):
        if stop.is_set():
            raise InterruptedError
        times.append(time.perf_counter())
        if int(tokens[0]) != tokenizer.eos_id:
            write(stream.push(int(tokens[0])))

    def run():
        generate(
            model,
            jnp.asarray([ids], jnp.int32),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            key=jax.random.key(seed),
            callback=tell,
        )

    write(prompt)
    # The compiled loop does not see Ctrl-C: it runs aside, and this thread waits.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            running.result()
        except KeyboardInterrupt:
            stop.set()
            raise
    write(stream.rest())
    first = times[min(1, len(times) - 1)]
    return Speed(len(times) - 1, first - times[0], times[-1] - first)
