"""Tiny random checkpoints in every layout, made by transformers itself.

Test files that import this are skipped where torch is not installed.
"""

import json
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jmamba import LanguageModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

VOCAB = 24
TINY = {"vocab_size": VOCAB, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 4}


@cache
def torch_model(kind: str = "mamba", seed: int = 0, **knobs):
    """Return a transformers model whose every parameter is random."""
    config_class = {
        "mamba": transformers.MambaConfig,
        "mamba2": transformers.Mamba2Config,
        "falcon_mamba": transformers.FalconMambaConfig,
    }[kind]
    config = config_class(**TINY | knobs)
    model_class = {
        "mamba": transformers.MambaForCausalLM,
        "mamba2": transformers.Mamba2ForCausalLM,
        "falcon_mamba": transformers.FalconMambaForCausalLM,
    }[kind]
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def random_tokens(length: int = 9, batch: int = 2, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(1).integers(0, vocab, (batch, length))


def torch_logits(model, tokens=None) -> np.ndarray:
    tokens = random_tokens() if tokens is None else tokens
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.float().numpy()


def jax_logits(model: LanguageModel, tokens=None) -> np.ndarray:
    tokens = random_tokens() if tokens is None else tokens
    return np.asarray(model(jnp.asarray(tokens, jnp.int32)).logits)


def write_hf(folder: Path, model=None, **options) -> Path:
    """Write the -hf or Falcon layout in safetensors, as transformers does."""
    (model or torch_model()).save_pretrained(folder, **options)
    return folder


def write_bin(folder: Path, model=None, *, shards: int = 1) -> Path:
    """Write the -hf layout as PyTorch files, in several shards if asked to."""
    model = model or torch_model()
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    names = list(state)
    weight_map = {}
    for i in range(shards):
        name = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        part = {key: state[key].clone() for key in names[i::shards]}
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    return folder


def original_state(model) -> dict:
    """Return a state dict with the names of the original state-spaces files."""
    return {
        key.replace("embeddings.", "embedding."): value
        for key, value in model.state_dict().items()
    }


def write_original(folder: Path, model=None, *, vocab_size=VOCAB - 1, **keys) -> Path:
    """Write the original layout, whose vocabulary is padded to a multiple of 8."""
    model = model or torch_model()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "d_model": model.config.hidden_size,
        "n_layer": model.config.num_hidden_layers,
        "vocab_size": vocab_size,
        "ssm_cfg": {"d_state": model.config.state_size},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    write_json(folder / "config.json", config | keys)
    torch.save(original_state(model), folder / "pytorch_model.bin")
    return folder


def write_json(file: Path, content) -> None:
    file.write_text(json.dumps(content))


def edit_config(folder: Path, **changes) -> None:
    """Change entries of config.json; None removes one."""
    raw = json.loads((folder / "config.json").read_text()) | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    write_json(folder / "config.json", raw)


def contents(folder: Path) -> list[str]:
    """Return the names of all files below a folder, but of its checksums."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    return sorted(str(p.relative_to(folder)) for p in files)
