"""Maps of pictures that ask no model: what a task gives away by itself."""

import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Pixels = Float[np.ndarray, "b h w 3"]
Maps = Float[np.ndarray, "b h w"]


def noise(images: Pixels) -> Maps:
    """Return noise that depends on nothing but the picture."""
    seeds = [zlib.crc32(np.ascontiguousarray(image).tobytes()) for image in images]
    return np.stack([
        np.random.default_rng(seed).random(images.shape[1:3]) for seed in seeds
    ])  # fmt: skip


def nothing(images: Pixels) -> Maps:
    """Return empty maps: a score that these have needs no explanation."""
    return np.zeros(images.shape[:3])


def centre(images: Pixels) -> Maps:
    """Return a blob in the middle, a quarter of the sides wide."""
    down, across = (np.linspace(-2, 2, side) for side in images.shape[1:3])
    blob = np.exp(-(down[:, None] ** 2 + across**2) / 2)
    return np.broadcast_to(blob, images.shape[:3]).copy()


def colour_distance(images: Pixels) -> Maps:
    """Return how far each pixel's colour is from the picture's mean."""
    return np.linalg.norm(images - images.mean(axis=(1, 2), keepdims=True), axis=-1)


def edge_energy(images: Pixels) -> Maps:
    """Return the length of the gradient of lightness, the mean of the colours."""
    return np.hypot(*np.gradient(images.mean(axis=-1), axis=(1, 2)))


BASELINES: dict[str, Callable[[Pixels], Maps]] = {
    "noise": noise,
    "nothing": nothing,
    "centre": centre,
    "colour distance": colour_distance,
    "edge energy": edge_energy,
}
"""Name -> function of pictures in [0, 1] to maps."""
