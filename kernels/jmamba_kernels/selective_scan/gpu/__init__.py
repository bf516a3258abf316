"""The GPU kernels: bodies for every backend, and what surrounds them."""
