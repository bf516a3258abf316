"""Decays as powers of two, which is what the hardware has: exp(x) = 2^(x log2 e)."""

import math

LOG2_E = math.log2(math.e)

LN_2 = math.log(2)
"""1 / LOG2_E: what a derivative in A log2(e) is multiplied by for one in A."""
