"""What may be wrong with a file: bits, lengths, JSON, headers, tensors, its kind."""

import argparse
import copy
import json
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, 10**400, 100_000, 16_384),
    *(0.5, -1e-5, 1e999, -1e999, float("nan"), "", "a", "8", "../x", "x" * 5000),
    *("/etc/passwd", "model", "\ud800", "a\0b", [], {}, [0], [[]], {"a": 1}),
    *([1, "a"], [True], ["x", None], {"0": 5}, {"": {}}, "layers.0.mixer.D"),
]
"""Values that a reader may not expect."""


def mutate(folder: Path, draw: random.Random) -> str:
    """Change something in a folder; return what, in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = draw.choice(files)
    ways = [flip_bits, cut, overwrite, replace_kind, rename]
    if file.suffix == ".json":
        ways = [*ways, *[change_json] * 12]
    if file.suffix == ".jsonl":
        ways += [change_line] * 10
    if file.suffix == ".safetensors":
        ways += [change_header] * 10
    if file.suffix in (".bin", ".pth"):
        ways += [change_state] * 10 + [compress_archive]
    way = draw.choice(ways)
    return f"{way.__name__} {file.name}: {way(file, draw)}"


def flip_bits(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 2, 8]))]
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return str(places)


def cut(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    length = draw.choice([0, draw.randrange(len(content)), len(content) - 1])
    file.write_bytes(content[:length])
    return f"{length} of {len(content)}"


def overwrite(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    start, size = draw.randrange(len(content)), draw.choice([4, 8, 64])
    content[start : start + size] = draw.choice([bytes(size), draw.randbytes(size)])
    file.write_bytes(content)
    return f"{size} at {start}"


def replace_kind(file: Path, draw: random.Random) -> str:
    """Put a pipe, a device, a folder or nothing in a file's place."""
    kind = draw.choice(["pipe", "device", "folder", "nothing", "dangling", "loop"])
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind != "nothing":
        targets = {"device": "/dev/zero", "dangling": "nowhere", "loop": file.name}
        file.symlink_to(targets[kind])
    return kind


def rename(file: Path, draw: random.Random) -> str:
    """Give a file another name, or its content to another file."""
    others = ["model.safetensors", "pytorch_model.bin", "a.pth", "noending", "x" * 255]
    name = draw.choice([*others, *(path.name for path in file.parent.iterdir())])
    target = file.parent / name
    if target.is_file() and target != file:
        shutil.copyfile(file, target)
    elif not target.exists():
        file.rename(target)
    return name


def change_json(file: Path, draw: random.Random) -> str:
    if draw.random() < 0.05:
        text = draw.choice(["[" * 10**5, '{"a":' * 10**5, '{"a": ' + "9" * 5000 + "}"])
        file.write_text(text)
        return text[:20]
    content = json.loads(file.read_text())
    what = change_tree(content, draw)
    file.write_text(json.dumps(content))
    return what


def change_line(file: Path, draw: random.Random) -> str:
    """Change one line of a file of JSON lines, leave it out, or write it twice."""
    lines = file.read_text().splitlines()
    number = draw.randrange(len(lines))
    way = draw.choice(["tree", "tree", "tree", "tree", "leave out", "twice"])
    if way == "tree":
        content = json.loads(lines[number])
        way = change_tree(content, draw)
        lines[number] = json.dumps(content)
    else:
        lines[number : number + 1] = [lines[number]] * (2 if way == "twice" else 0)
    file.write_text("\n".join([*lines, ""]))
    return f"line {number}: {way}"


def change_tree(tree: Any, draw: random.Random) -> str:
    """Change one entry somewhere in nested dicts and lists."""
    nodes = [tree]
    for node in nodes:
        inner = node.values() if isinstance(node, dict) else node
        nodes += [value for value in inner if isinstance(value, dict | list) and value]
    node = draw.choice(nodes)
    if not node:
        return "nothing"
    key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
    way = draw.choice(["set", "set", "set", "delete", "rename", "add"])
    if way == "set" or isinstance(node, list):
        node[key] = copy.deepcopy(draw.choice(NASTY))
        return f"{key} = {str(node[key])[:40]!r}"
    value = node[key] if way == "add" else node.pop(key)
    if way != "delete":
        node[draw.choice([f"{key}x", "", "layers.9.mixer.D", "é" * 50])] = value
    return f"{way} {key}"


def change_header(file: Path, draw: random.Random) -> str:
    """Change the header of a safetensors file, its dtypes, shapes and names."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    name, way = draw.choice(names), draw.choice(["dtype", "shape", "layers", "tree"])
    if way == "dtype":
        header[name]["dtype"] = draw.choice(["F64", "I32", "F8_E4M3", "BOOL", "BF16"])
    elif way == "shape":
        header[name]["shape"] = draw.choice([[], [0], [2**62, 4], [1] * 40, [-1]])
    elif way == "layers":
        digits = draw.choice(["9" * 5000, "²", "٣", "00", "100000", ".a" * 20000])
        header[f"backbone.layers.{digits}.mixer.D"] = header.pop(name)
    else:
        change_tree(header, draw)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return f"{way} {name}"


def change_state(file: Path, draw: random.Random) -> str:
    """Save the tensors of a file of PyTorch again, one of them another."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(file, weights_only=True)
    args = state.get("args")
    if args is not None and draw.random() < 0.5:
        name = draw.choice(["model", "input_size", "if_divide_out", "divide_out"])
        value = draw.choice([*NASTY, torch.zeros(3), {1: 2}, state])
        setattr(args, name, copy.copy(value))
        return _save(state, file, draw, f"args.{name} = {str(value)[:40]}")
    inner = state.get("model", state)
    key = draw.choice(list(inner))
    tensor = inner[key]
    others = [
        *(tensor.to_sparse(), tensor.to("meta"), tensor.double(), tensor.bool()),
        *(tensor.half(), tensor.to(torch.complex64), tensor * float("nan")),
        *(tensor[:0], tensor[None], tensor.flatten(), torch.zeros(())),
        *(torch.zeros(1).expand(10**6, 10**6), torch.zeros(1).expand(tensor.shape)),
        *(torch.nn.Parameter(tensor), 3, "text", None, [tensor], {"a": tensor}),
        *(bytearray(9), {1, 2}, torch.Size([3]), torch.float32, inner),
    ]
    way = draw.choice(["set", "set", "set", "key", "delete", "wrap"])
    if way == "set":
        inner[key] = draw.choice(others)
        return _save(state, file, draw, f"{key}: {type(inner[key])}")
    del inner[key]
    if way == "key":
        inner[draw.choice([1, None, (1, "a"), 2.5, "layers.²", "a" * 10000])] = tensor
    elif way == "wrap":
        for name in draw.choice([["model"], ["state_dict"] * 20, ["module", "model"]]):
            state = {name: state}
    return _save(state, file, draw, f"{way} {key}")


def _save(state: Any, file: Path, draw: random.Random, what: str) -> str:
    zipped = draw.random() < 0.8
    try:
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
    except (NotImplementedError, RuntimeError, RecursionError, UnicodeError) as error:
        file.write_bytes(b"")  # what torch itself cannot write
        return f"{what} ({type(error).__name__})"
    return what


def compress_archive(file: Path, draw: random.Random) -> str:
    if not zipfile.is_zipfile(file):
        return "is none"
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    if draw.random() < 0.5:
        entries["archive/data/bomb"] = bytes(50_000_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return "deflated"
