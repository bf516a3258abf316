"""Files of any model: weights, tokenizers, the Hub, Orbax."""
