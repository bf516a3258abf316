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
from jmamba.generation.lookup import Lookup
from jmamba.generation.sampling import Sampling
from jmamba.generation.text_stream import StoppedText, TextStream
from jmamba.models.language_model import LanguageModel


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


def print_continuation(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    write: Callable[[str], None],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    stop_strings: Sequence[str] = (),
    lookup: Lookup | None = None,
) -> Speed:
    """Write a prompt and its continuation as it is made, without what ends it.

    Args:
      model: the model.
      tokenizer: its tokenizer.
      prompt: the text to continue.
      write: called with each piece of text.
      max_new_tokens: most tokens to add.
      sampling: how tokens are drawn.
      seed: seed of the draws.
      stop_strings: texts that end it as end tokens do.
      lookup: how tokens are guessed; None for one at a time.

    Raises:
      ValueError: the prompt or a setting cannot be used.
      KeyboardInterrupt: Ctrl-C was pressed; the generation has stopped.
    """
    ids = tokenizer.encode(prompt)
    stream, text, stop = (
        TextStream(tokenizer.decode, ids),
        StoppedText(stop_strings),
        Event(),
    )
    vocabulary = range(model.config.vocab_size)
    ends = {*model.config.end_tokens, *tokenizer.eos_ids}.intersection(vocabulary)
    times = [time.perf_counter()]

    def tell(tokens, running):
        if stop.is_set():
            raise InterruptedError
        times.append(time.perf_counter())
        if int(tokens[0]) not in ends:
            write(text.push(stream.push(int(tokens[0]))))

    def run():
        generate(
            model,
            jnp.asarray([ids], jnp.int32),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_tokens=sorted(ends),
            stop_strings=stop_strings,
            tokenizer=tokenizer,
            key=jax.random.key(seed),
            lookup=lookup,
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
    write(text.push(stream.rest()) + text.rest())
    first = times[min(1, len(times) - 1)]
    return Speed(len(times) - 1, first - times[0], times[-1] - first)
