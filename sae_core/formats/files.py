"""Safe reading of weight files: nothing in a file is executed, and a damaged file is named.

Part of *formats*; every format reads through here. Headers are read without the weights, so that looking at a folder
costs little however large the SAE is.
"""

import hashlib
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

AGAIN = "the download or the copy was cut short, or it is another kind of file: fetch or train it again"

_used: ContextVar[set[Path] | None] = ContextVar("_used", default=None)


@dataclass(frozen=True)
class ArrayInfo:
    """What a header says of one array."""

    shape: tuple[int, ...]
    dtype: str
    """As the file spells it: ``F32``, ``BF16`` (safetensors), ``float32`` (numpy)."""


@contextmanager
def recording() -> Iterator[set[Path]]:
    """The files that are read through this module within the ``with`` block: where an SAE comes from."""
    used: set[Path] = set()
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


def safetensors_header(path: Path) -> dict[str, ArrayInfo]:
    """Shapes and types of what a safetensors file holds, by key, without reading the weights.

    Raises:
        ValueError: if the file is damaged or of another kind.
    """
    with _open_safetensors(path) as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        return {key: ArrayInfo(tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}


def read_safetensors(path: Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file, as stored (mapped into memory, read when touched).

    Args:
        keys: which to read; None reads all.

    Raises:
        ValueError: if the file is damaged or of another kind, or has no such key.
    """
    with _open_safetensors(path) as file:
        held = sorted(file.keys())
        _require(path, held, keys)
        return {key: file.get_tensor(key) for key in (held if keys is None else keys)}


def read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors and plain containers, mapped into memory where the file allows it.

    Raises:
        ValueError: if the file is damaged, or if unpickling it would run code.
    """
    _note(path)
    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"  # files written before PyTorch 1.6 are no zip archives
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not (name := _wanted(error)):
            raise ValueError(
                f"{path} is not a file that torch.save wrote (a plain pickle could run code and is not opened); {AGAIN}"
            ) from error
        raise ValueError(
            f"{path} is a pickle that would run code when it is opened ({name}), so it is not opened. If you trust "
            "who made it, open it elsewhere and save the state dict alone, as safetensors or with "
            "torch.save(sae.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a readable PyTorch file ({_first_sentence(error)}); {AGAIN}") from error


def npz_header(path: Path) -> dict[str, ArrayInfo]:
    """Shapes and types of the arrays in a ``.npz`` file, by key, without reading them.

    Raises:
        ValueError: if the file is damaged or of another kind.
    """
    found = {}
    with _reading(path, "npz"), zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with archive.open(name) as member:
                read = np.lib.format.read_array_header_2_0
                if np.lib.format.read_magic(member) == (1, 0):
                    read = np.lib.format.read_array_header_1_0
                shape, _, dtype = read(member)
            found[name.removesuffix(".npy")] = ArrayInfo(tuple(shape), str(dtype))
    return found


def read_npz(path: Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Arrays of a ``.npz`` file; only the members asked for are read.

    Args:
        keys: which to read; None reads all.

    Raises:
        ValueError: if the file is damaged, has no such key, or a member holds Python objects.
    """
    with _reading(path, "npz"), np.load(path, allow_pickle=False) as archive:
        _require(path, archive.files, keys)
        return {key: torch.from_numpy(archive[key]) for key in (archive.files if keys is None else keys)}


def read_npy(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file, mapped into memory.

    Raises:
        ValueError: if the file is damaged or holds Python objects.
    """
    with _reading(path, "npy"):
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
        return array


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: if the file is not JSON, or not an object.
    """
    _note(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object; {AGAIN}")
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; computed once in a process as long as size and time of change stay."""
    stat = path.stat()
    return _sha256_unchanged(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_unchanged(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(path: Path) -> None:
    used = _used.get()
    if used is not None:
        used.add(path)


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    _note(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); {AGAIN}") from error


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what numpy and zipfile raise on damaged files into one kind of error."""
    _note(path)
    try:
        yield
    except ValueError as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise ValueError(
                f"{path} holds pickled Python objects, which would run code when they are opened, so it is not opened; "
                "save plain arrays of numbers"
            ) from error
        raise _damaged(path, kind, error) from error
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise _damaged(path, kind, error) from error


def _damaged(path: Path, kind: str, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError) or str(path) in str(error):
        return error
    return ValueError(f"{path} is not a readable .{kind} file ({_first_sentence(error)}); {AGAIN}")


def _require(path: Path, held: Sequence[str], keys: Sequence[str] | None) -> None:
    missing = sorted(set(keys or ()) - set(held))
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; it holds {', '.join(sorted(held)) or 'nothing'}")


def _first_sentence(error: Exception) -> str:
    if isinstance(error, KeyError) or not str(error).strip() or "pickled" in str(error):
        return "it does not begin like one"
    return str(error).strip().splitlines()[0].split(". ")[0]


def _wanted(error: Exception) -> str | None:
    """What a refused pickle would call, such as ``posix.system``; None when it is merely no file of PyTorch."""
    found = re.search(r"(?:GLOBAL|Unsupported class) ([A-Za-z_][\w.]*)", str(error))
    return found.group(1) if found else None
