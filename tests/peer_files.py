"""Copies of the checkpoints in ``data`` to change: what the tests of the formats of other packages share."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent / "data"


def copy_of(name, tmp_path):
    """A copy of a checkpoint, without what is expected of it."""
    folder = tmp_path / name
    shutil.copytree(DATA / name, folder, ignore=shutil.ignore_patterns("expected.npz"))
    return folder


def edit_json(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_tensors(path, change):
    """Change a dict of tensors in place: a PyTorch file or safetensors."""
    tensors = torch.load(path) if path.suffix == ".pt" else load_file(path)
    change(tensors)
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def transpose(key):
    return lambda tensors: tensors.update({key: tensors[key].T.contiguous()})


def without(key):
    return lambda mapping: mapping.pop(key)


def with_(**entries):
    return lambda mapping: mapping.update(entries)
