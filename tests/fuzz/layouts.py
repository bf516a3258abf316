"""One small checkpoint, picture, tokenizer or run in every layout that is read."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

from jmamba import (
    FalconH1Config,
    FalconH1LM,
    GraniteConfig,
    GraniteLM,
    JambaConfig,
    JambaLM,
    Mamba2Config,
    Mamba2LM,
    MambaConfig,
    MambaLM,
    Vim,
    VimConfig,
)
from jmamba.checkpoints import load_orbax, load_tokenizer, save_orbax
from jmamba.evaluation.records import RecordFile, read_records
from jmamba.files.checksums import compare_checksums
from jmamba.models.vim.images import preprocess
from jmamba.recipes.workbench import Workbench
from jmamba.training.config import TrainConfig
from jmamba.training.metrics import METRICS, MetricsLog
from jmamba.training.states import TrainingStates

SIZES: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "num_layers": 2}
SIZES |= {"d_state": 2}
VIM_SIZES: dict[str, Any] = {
    "d_model": 8,
    "num_layers": 2,
    "d_state": 2,
    "num_classes": 3,
}
VIM_SIZES |= {"image_size": 16, "patch_size": 8, "image_channels": 3}


def language_model() -> MambaLM:
    return MambaLM(MambaConfig(**SIZES), rngs=nnx.Rngs(0))


def vision_model() -> Vim:
    return Vim(VimConfig(**VIM_SIZES), rngs=nnx.Rngs(0))


def torch_tensors(folder: Path) -> dict:
    """Return the tensors of a folder as torch has them, and remove their file."""
    file = folder / "model.safetensors"
    tensors = {k: torch.from_numpy(v) for k, v in load_file(file).items()}
    file.unlink()
    return tensors


def write_single(folder: Path) -> None:
    language_model().save_pretrained(folder)


def write_sharded(folder: Path) -> None:
    language_model().save_pretrained(folder, shard_bytes=2000)


def write_zip(folder: Path) -> None:
    write_single(folder)
    torch.save(torch_tensors(folder), folder / "pytorch_model.bin")


def write_legacy(folder: Path) -> None:
    write_single(folder)
    file = folder / "pytorch_model.bin"
    tensors = torch_tensors(folder)
    torch.save(tensors, file, _use_new_zipfile_serialization=False)


def write_state_spaces(folder: Path) -> None:
    write_single(folder)
    turn_original(folder, {"d_state": 2})


def turn_original(folder: Path, ssm: dict) -> None:
    """Write a folder again as the original repository has it."""
    tensors = torch_tensors(folder)
    key = "backbone.embeddings.weight"
    tensors["backbone.embedding.weight"] = tensors.pop(key)
    torch.save(tensors, folder / "pytorch_model.bin")
    config = {"d_model": 8, "n_layer": 2, "vocab_size": 16, "ssm_cfg": ssm}
    (folder / "config.json").write_text(json.dumps(config))


def write_mamba2(folder: Path) -> None:
    config = Mamba2Config(**SIZES, head_width=8, num_groups=2)
    Mamba2LM(config, rngs=nnx.Rngs(0)).save_pretrained(folder)


def write_original_mamba2(folder: Path) -> None:
    write_mamba2(folder)
    ssm = {"layer": "Mamba2", "d_state": 2, "headdim": 8, "ngroups": 2}
    turn_original(folder, ssm)


HYBRID = {**SIZES, "d_feed_forward": 6, "num_query_heads": 2}


def write_granite(folder: Path) -> None:
    config = GraniteConfig(**HYBRID, head_width=8, layer_kinds=("mamba", "attention"))
    GraniteLM(config, rngs=nnx.Rngs(0)).save_pretrained(folder)


def write_falcon_h1(folder: Path) -> None:
    config = FalconH1Config(**HYBRID, head_width=8, rope_width=4)
    FalconH1LM(config, rngs=nnx.Rngs(0)).save_pretrained(folder)


def write_jamba(folder: Path) -> None:
    config = JambaConfig(**HYBRID, layer_kinds=("mamba", "attention"))
    JambaLM(config, rngs=nnx.Rngs(0)).save_pretrained(folder)


def write_vim(folder: Path) -> None:
    vision_model().save_pretrained(folder)


def write_vim_training(folder: Path) -> None:
    write_vim(folder)
    args = argparse.Namespace(model="vim_midclstok", input_size=16)
    content = {"model": torch_tensors(folder), "epoch": 3, "args": args}
    (folder / "config.json").unlink()
    torch.save(content, folder / "vim.pth")


def write_orbax_folder(folder: Path) -> None:
    save_orbax(language_model(), folder)


def write_adapter(folder: Path) -> None:
    write_single(folder / "base")
    path = "base_model.model.backbone.layers.0.mixer.in_proj.lora_"
    A, B = np.ones((2, 8), np.float32), np.ones((32, 2), np.float32)
    tensors = {f"{path}A.weight": A, f"{path}B.weight": B}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"a": 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_tokenizer(folder: Path) -> None:
    folder.mkdir()
    words = {"<end>": 0, "a": 1, "b": 2}
    end = {"id": 0, "content": "<end>", "single_word": False, "lstrip": False}
    end |= {"rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end],
        "pre_tokenizer": level,
        "post_processor": level,
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (folder / "config.json").write_text('{"model_type": "mamba", "vocab_size": 3}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(folder / "vector.eps")  # which is never read
    for ending in ("png", "jpg", "gif", "tiff", "bmp", "webp", "ppm", "tga", "ico"):
        picture.save(folder / f"picture.{ending}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")


def read_pictures(folder: Path) -> None:
    """Read the one picture that a mutation left its mark on."""
    changed = max(folder.iterdir(), key=lambda file: file.lstat().st_mtime_ns)
    preprocess(changed, crop=8)


def read_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.pieces(tokenizer.encode("ab"))


RECORDS = "records.jsonl"


def write_records(folder: Path) -> None:
    folder.mkdir()
    records = RecordFile(folder / RECORDS, {"data": "a", "sizes": [1, 2.5]})
    for method in ("lrp", "random"):
        values = {"area": [0.5, 1.5], "curve": [[1, 2], [3, 4]]}
        records.append(method, ["a", "b"], values)


def read_record_folder(folder: Path) -> None:
    """Read records as one who looks at them, and as one who goes on."""
    read_records(folder / RECORDS)
    RecordFile(folder / RECORDS, {"data": "a", "sizes": [1, 2.5]})


def open_bench(folder: Path) -> Workbench:
    return Workbench(folder, name="demo", config=TrainConfig(9, 1, warmup=1))


def write_recipe(folder: Path) -> None:
    bench = open_bench(folder)
    bench.once("areas", lambda: {"lrp": [1.5, 2.5], "random": {"low": 1}})
    log = MetricsLog(bench.directory / "runs" / "one" / METRICS)
    log.path.parent.mkdir(parents=True)
    for step in range(1, 5):
        log.append(step, loss=1 / step)
    log.close()


def read_recipe(folder: Path) -> None:
    """Go on with a recipe: what is measured is read, the losses are read."""
    bench = open_bench(folder)
    found = bench.once("areas", lambda: {"lrp": [1.5, 2.5], "random": {"low": 1}})
    json.dumps(found)
    sum(bench.losses("one"))


STATE = {"weights": jnp.arange(12.0).reshape(3, 4), "step": jnp.zeros((), jnp.int32)}


def open_states(folder: Path) -> TrainingStates:
    return TrainingStates(folder, {"steps": 9, "data": {"a": "b"}}, save_every=2)


def write_states(folder: Path) -> None:
    states = open_states(folder)
    for step in (2, 4):
        states.save(STATE, step, last=False)
    states.close()


def read_states(folder: Path) -> None:
    states = open_states(folder)
    try:
        states.restore(STATE)
    finally:
        states.close()


LAYOUTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "safetensors": (write_single, MambaLM.from_pretrained),
    "shards": (write_sharded, MambaLM.from_pretrained),
    "zip": (write_zip, MambaLM.from_pretrained),
    "legacy": (write_legacy, MambaLM.from_pretrained),
    "state-spaces": (write_state_spaces, MambaLM.from_pretrained),
    "mamba2": (write_mamba2, Mamba2LM.from_pretrained),
    "mamba2-original": (write_original_mamba2, Mamba2LM.from_pretrained),
    "granite": (write_granite, GraniteLM.from_pretrained),
    "falcon_h1": (write_falcon_h1, FalconH1LM.from_pretrained),
    "jamba": (write_jamba, JambaLM.from_pretrained),
    "vim": (write_vim, Vim.from_pretrained),
    "vim-training": (write_vim_training, Vim.from_pretrained),
    "orbax": (write_orbax_folder, load_orbax),
    "adapter": (
        write_adapter,
        lambda folder: MambaLM.from_pretrained(folder, base=folder / "base"),
    ),
    "tokenizer": (write_tokenizer, read_tokenizer),
    "pictures": (write_pictures, read_pictures),
    "checksums": (write_single, compare_checksums),
    "records": (write_records, read_record_folder),
    "recipe": (write_recipe, read_recipe),
    "states": (write_states, read_states),
}
"""Name -> how a folder is written, and read."""
