"""The peers to measure beside: transformers' token loop and mambapy's parallel scan.

Each function returns a program, or None where the peer is not installed.
"""

import importlib.util
from importlib import metadata

import numpy as np

from jmamba import MambaConfig
from jmamba.models import architecture_of


def installed(*packages: str) -> bool:
    """Return whether all packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in packages)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def torch_scan(arrays, *, parallel: bool, backward: bool):
    """Return the scan in PyTorch: a loop over tokens, or mambapy's pscan.

    Args:
      arrays: u, delta, A, B, C as NumPy arrays of one text, channels last.
      parallel: pscan instead of the loop.
      backward: also the gradients of a weighted sum of y, by autograd.
    """
    if not installed("torch", *(["mambapy"] if parallel else [])):
        return None
    import torch

    operands = [torch.tensor(x, requires_grad=backward) for x in arrays]
    weights = torch.randn(*arrays[0].shape)

    def decays(u, delta, A, B):
        return torch.exp(delta[..., None] * A), (delta * u)[..., None] * B[:, :, None]

    def loop():
        u, delta, A, B, C = operands
        A_bar, inputs = decays(u, delta, A, B)
        h = torch.zeros_like(inputs[:, 0])
        y = []
        for t in range(u.shape[1]):
            h = A_bar[:, t] * h + inputs[:, t]
            y.append((h @ C[:, t, :, None])[..., 0])
        return torch.stack(y, dim=1)

    def scan():
        from mambapy.pscan import pscan

        u, delta, A, B, C = operands
        return (pscan(*decays(u, delta, A, B)) @ C[..., None])[..., 0]

    forward = scan if parallel else loop

    def run():
        if not backward:
            with torch.no_grad():
                return forward()
        for x in operands:
            x.grad = None
        (forward() * weights).sum().backward()

    return run


def transformers_model(config):
    """Return transformers' model of a configuration with random weights, or None."""
    if not installed("torch", "transformers"):
        return None
    import logging

    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    write_config = architecture_of(config).write_config
    assert write_config is not None
    raw = write_config(config, dtype="float32")
    kind = getattr(transformers, raw["architectures"][0])
    return kind(kind.config_class.from_dict(raw)).eval()


def transformers_layer(block):
    """Return transformers' MambaBlock with the weights of our block, or None."""
    if not installed("torch", "transformers"):
        return None
    import logging

    import torch
    import transformers
    from transformers.models.mamba.modeling_mamba import MambaBlock

    logging.getLogger("transformers").setLevel(logging.ERROR)
    mixer, sizes = block.mixer, block.mixer.sizes
    hf = transformers.MambaConfig(
        hidden_size=sizes.d_model,
        state_size=sizes.d_state,
        num_hidden_layers=1,
        conv_kernel=sizes.d_conv,
        expand=sizes.d_inner // sizes.d_model,
        time_step_rank=sizes.dt_rank,
        layer_norm_epsilon=block.norm.eps,
    )
    weights = {
        "norm.weight": block.norm.scale[...],
        "mixer.A_log": mixer.A_log[...],
        "mixer.D": mixer.D[...],
        "mixer.conv1d.weight": mixer.conv1d.weight[...][:, None],
        "mixer.conv1d.bias": mixer.conv1d.bias[...],
        "mixer.in_proj.weight": mixer.in_proj.kernel[...].T,
        "mixer.x_proj.weight": mixer.x_proj.kernel[...].T,
        "mixer.dt_proj.weight": mixer.dt_proj.kernel[...].T,
        "mixer.dt_proj.bias": mixer.dt_bias[...],
        "mixer.out_proj.weight": mixer.out_proj.kernel[...].T,
    }
    layer = MambaBlock(hf, 0)
    layer.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in weights.items()})
    return layer.eval()


def mambapy_model(config):
    """Return mambapy's Mamba of the same shape with a tied head, or None."""
    if not installed("torch", "mambapy") or not isinstance(config, MambaConfig):
        return None
    import torch
    from mambapy.mamba import Mamba
    from mambapy.mamba import MambaConfig as PeerConfig

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(config.vocab_size, config.d_model)
            self.mamba = Mamba(
                PeerConfig(
                    d_model=config.d_model,
                    n_layers=config.num_layers,
                    d_state=config.d_state,
                    d_conv=config.d_conv,
                    dt_rank=config.dt_rank,
                )
            )
            self.norm = torch.nn.RMSNorm(config.d_model, 1e-5)

        def head(self, x):
            return self.norm(x) @ self.embedding.weight.T

        def forward(self, tokens):
            return self.head(self.mamba(self.embedding(tokens)))

        def step(self, token, caches):
            x, caches = self.mamba.step(self.embedding(token), caches)
            return self.head(x), caches

    return Model().eval()


def mamba_ssm_scan(operands: dict, *, backward: bool):
    """Return name -> program of mamba_ssm's CUDA scan on the same operands.

    Its layout is (b, d, l) and (b, n, l), copied once, outside the timing.
    """
    if not installed("torch", "mamba_ssm"):
        return None
    import torch
    from mamba_ssm.ops import selective_scan_interface  # pyright: ignore

    if not torch.cuda.is_available():
        return None

    def tensor(x):
        half = x.dtype.name == "bfloat16"
        value = torch.tensor(np.asarray(x, np.float32), device="cuda")
        value = value.to(torch.bfloat16) if half else value
        if value.ndim == 3:
            value = value.transpose(1, 2).contiguous()  # b l d -> b d l
        return value.requires_grad_(backward)

    parts = {name: tensor(x) for name, x in operands.items()}
    scan = selective_scan_interface.selective_scan_fn

    def forward():
        with torch.no_grad():
            scan(**parts, delta_softplus=True)
        torch.cuda.synchronize()

    def gradient():
        scan(**parts, delta_softplus=True).float().sum().backward()
        torch.cuda.synchronize()

    return {"forward": forward} | ({"gradient": gradient} if backward else {})


def jax_linear_attention_scan(operands: dict, *, backward: bool):
    """Return name -> program of jax-linear-attention's Hopper kernel, same operands."""
    if not installed("jla"):
        return None
    import jax
    from jla.ops.mosaic_gpu.mamba1 import mamba1, supports  # pyright: ignore

    def scan(o):
        out = mamba1(
            o["C"], o["B"], o["u"], o["delta"], o["A"], d=o["D"], z=o["z"],
            dt_bias=o["delta_bias"], dt_softplus=True,
        )  # fmt: skip
        return jax.tree.leaves(out)[0]

    options = dict(d=operands["D"], z=operands["z"], dt_softplus=True)
    first = (operands[name] for name in ("C", "B", "u", "delta", "A"))
    if not supports(*first, dt_bias=operands["delta_bias"], **options):
        return None

    def loss(o):
        return jax.numpy.sum(scan(o).astype("float32"))

    forward = jax.jit(scan)
    programs = {"forward": lambda: jax.block_until_ready(forward(operands))}
    if backward:
        gradient = jax.jit(jax.grad(loss))
        programs["gradient"] = lambda: jax.block_until_ready(gradient(operands))
    return programs
