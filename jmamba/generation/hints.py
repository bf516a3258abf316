"""What arguments of other libraries are called here."""

from collections.abc import Iterable

HINTS = {
    "num_beams": "there is no beam search: draw several continuations of one prompt, "
    "jnp.repeat(tokens, 8, axis=0) with sampling=Sampling(temperature=0.7), and keep "
    "the likeliest; one beam is the default, greedy",
    "num_return_sequences": "repeat the prompt: jnp.repeat(tokens, n, axis=0)",
    "do_sample": "give sampling=Sampling(temperature=1.0) and key=jax.random.key(0)",
    "temperature": "give sampling=Sampling(temperature=...)",
    "top_k": "give sampling=Sampling(temperature=1.0, top_k=...)",
    "top_p": "give sampling=Sampling(temperature=1.0, top_p=...)",
    "min_p": "give sampling=Sampling(temperature=1.0, min_p=...)",
    "repetition_penalty": "give sampling=Sampling(repetition_penalty=...)",
    "max_length": "give max_new_tokens, which does not count the prompt",
    "eos_token_id": "give stop_tokens=[...]",
    "pad_token_id": "give pad_token=...",
    "input_ids": "give them as tokens: generate(model, input_ids, ...)",
    "past_key_values": "give cache=...",
    "cache_params": "give cache=...",
    "streamer": "give callback=...",
    "prompt_lookup_num_tokens": "give lookup=Lookup(num_tokens=...)",
    "seed": "give key=...",
    "rng": "give key=...",
}
"""Arguments that others have for the same, and what to give instead."""

_BEAMS = ("num_beams", "num_beam_groups", "length_penalty", "early_stopping")


def check_names(names: Iterable[str]) -> None:
    """Raise if `generate` was given an argument that it does not have.

    Args:
      names: of the arguments that are left over.

    Raises:
      TypeError: there are some; the message says what to give instead.

    Examples:
      >>> check_names(["seed"])
      Traceback (most recent call last):
      ...
      TypeError: generate takes no seed: give key=....
    """
    names = list(names)
    if not names:
        return
    hints = [
        (name, HINTS.get("num_beams" if name in _BEAMS else name)) for name in names
    ]
    said = "; ".join(f"{name}: {hint}" for name, hint in hints if hint)
    plain = ", ".join(name for name, hint in hints if not hint)
    raise TypeError(
        "generate takes no " + " and no ".join(x for x in (said, plain) if x) + "."
    )
