"""The view of tokens that reports share: shaded text that answers to hand and key."""
