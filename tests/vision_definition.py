"""Vision Mamba as its equations say, one number after the other, in float64.

`run` reads a state dict with the names of Vim's authors and shares no code with the
model.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jmamba import Vim, VimConfig
from jmamba.models.skeleton import make_skeleton, slots_of


class Definition(NamedTuple):
    logits: np.ndarray  # b v
    hidden: list  # after the embedding and after each block: b l m


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def branch(x, z, state, prefix, suffix):
    """One direction for one image: x, z (l, d) to the gated output (l, d)."""

    def get(name):
        head, dot, tail = name.partition(".")
        return state[f"{prefix}{head}{suffix}{dot}{tail}"]

    length, channels = x.shape
    weight, bias = get("conv1d.weight")[:, 0], get("conv1d.bias")
    window = weight.shape[1]
    u = np.zeros_like(x)
    for t in range(length):
        a = bias.copy()
        for k in range(window):
            if t - (window - 1) + k >= 0:
                a += weight[:, k] * x[t - (window - 1) + k]
        u[t] = a * sigmoid(a)
    A = -np.exp(state[f"{prefix}A{suffix}_log"])
    states, rank = A.shape[1], get("dt_proj.weight").shape[1]
    h, out = np.zeros((channels, states)), np.zeros_like(x)
    for t in range(length):
        dt, B, C = np.split(get("x_proj.weight") @ u[t], [rank, rank + states])
        delta = np.log1p(np.exp(get("dt_proj.weight") @ dt + get("dt_proj.bias")))
        h = np.exp(delta[:, None] * A) * h + np.outer(delta * u[t], B)
        y = h @ C + get("D") * u[t]
        out[t] = y * z[t] * sigmoid(z[t])
    return out


def mixer(x, state, prefix, divide):
    """The whole mixer for one image, (l, m) to (l, m)."""
    projected = x @ state[f"{prefix}in_proj.weight"].T
    half = projected.shape[1] // 2
    a, z = projected[:, :half], projected[:, half:]
    out = branch(a, z, state, prefix, "")
    out = out + branch(a[::-1], z[::-1], state, prefix, "_b")[::-1]
    return (out / 2 if divide else out) @ state[f"{prefix}out_proj.weight"].T


def patches(image, state, stride):
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    side = kernel.shape[-1]
    found = []
    for top in range(0, image.shape[0] - side + 1, stride):
        for left in range(0, image.shape[1] - side + 1, stride):
            patch = image[top : top + side, left : left + side]
            found.append(np.einsum("ocyx,yxc->o", kernel, patch) + bias)
    return np.array(found)


def run(state, images, *, stride, place, divide=True) -> Definition:
    """Run a Vim whose class token has `place` patches before it; None for no token."""
    state = {key: np.asarray(value, np.float64) for key, value in state.items()}
    num_layers = len({k.split(".")[1] for k in state if k.startswith("layers.")})
    logits, hidden = [], []
    for image in np.asarray(images, np.float64):
        x = patches(image, state, stride)
        if place is not None:
            x = np.insert(x, place, state["cls_token"][0, 0], axis=0)
        x = x + state["pos_embed"][0]
        stream = [x]
        for i in range(num_layers):
            normed = rms_norm(x, state[f"layers.{i}.norm.weight"])
            x = x + mixer(normed, state, f"layers.{i}.mixer.", divide)
            stream.append(x)
        hidden.append(stream)
        x = rms_norm(x, state["norm_f.weight"])
        read = x.mean(0) if place is None else x[place]
        logits.append(state["head.weight"] @ read + state["head.bias"])
    stacked = [np.stack(layer) for layer in zip(*hidden, strict=True)]
    return Definition(np.stack(logits), stacked)


def random_state(
    seed=0, *, m=8, d=16, n=3, r=2, k=4, layers=2, classes=5, patch=4, places=10,
    class_token=True,
):  # fmt: skip
    """Draw weights of the size that trained ones have, under the authors' names."""
    draw = np.random.default_rng(seed)

    def normal(*shape, center=0.0, scale=0.3):
        return (center + scale * draw.standard_normal(shape)).astype(np.float32)

    state = {"cls_token": normal(1, 1, m)} if class_token else {}
    state |= {
        "pos_embed": normal(1, places, m),
        "patch_embed.proj.weight": normal(m, 3, patch, patch),
        "patch_embed.proj.bias": normal(m),
        "norm_f.weight": normal(m, center=1.0),
        "head.weight": normal(classes, m),
        "head.bias": normal(classes),
    }
    for i in range(layers):
        mixer_state = {
            "in_proj.weight": normal(2 * d, m),
            "out_proj.weight": normal(m, d),
        }
        for b in ("", "_b"):
            mixer_state |= {
                f"conv1d{b}.weight": normal(d, 1, k),
                f"conv1d{b}.bias": normal(d),
                f"x_proj{b}.weight": normal(r + 2 * n, d),
                f"dt_proj{b}.weight": normal(d, r),
                f"dt_proj{b}.bias": normal(d, center=-2.0),
                f"A{b}_log": normal(d, n, center=0.7),
                f"D{b}": normal(d, center=1.0),
            }
        state[f"layers.{i}.norm.weight"] = normal(m, center=1.0)
        state |= {f"layers.{i}.mixer.{key}": v for key, v in mixer_state.items()}
    return state


def draw_images(height=12, width=12, batch=2, seed=1):
    draw = np.random.default_rng(seed)
    return draw.standard_normal((batch, height, width, 3)).astype(np.float32)


def tiny_vim(
    seed=0,
    *,
    class_token: str | int = "middle",
    dtype: Any = "float32",
    remat=False,
    layers=2,
) -> Vim:
    """Return a Vim for images of 12 x 12 pixels, of which every parameter is random."""
    place = class_token != "none"
    state = random_state(seed, layers=layers, places=9 + place, class_token=place)
    config = VimConfig(
        d_model=8,
        num_layers=layers,
        num_classes=5,
        image_size=12,
        patch_size=4,
        class_token=class_token,
        d_state=3,
        dt_rank=2,
    )
    skeleton = make_skeleton(config, dtype=dtype, param_dtype=dtype, remat=remat)
    arrays = {path: np.zeros(leaf.shape) for path, leaf in skeleton.parameters.items()}
    for key, slot in slots_of(config, skeleton.parameters).items():
        place = arrays[slot.path][slot.part]
        place[:] = slot.change.from_torch(state[key])
    cast = {
        path: jnp.asarray(array.astype(skeleton.parameters[path].dtype))
        for path, array in arrays.items()
    }
    return skeleton.build(cast)
