"""Pretrained sparse autoencoders in and out: one canonical form inside, one file format a module.

A new format is a module with ``NAME``, ``LOOKS_FOR``, ``detects(path)`` and ``read(path)``, and a line in ``FORMATS``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sae_core.architectures import Sae
from sae_core.formats import array, dictionary_learning, gemma_scope, openmoss, saelens, sparsify
from sae_core.formats.array import Orientation
from sae_core.formats.checkpoint import Checkpoint, check, to_sae
from sae_core.formats.dictionary import Dictionary, to_dictionary
from sae_core.formats.files import recording, sha256
from sae_core.formats.sources import Located, Source, locate


@runtime_checkable
class Format(Protocol):
    """One file format."""

    NAME: str
    LOOKS_FOR: str
    """Which files and keys it is recognised by, in one line."""

    def detects(self, path: Path) -> bool:
        """Whether a file or folder is in this format; looks at names, keys and shapes, not at weights."""
        ...

    def read(self, path: Path) -> Checkpoint:
        """The SAE in it, as the file says it."""
        ...


@runtime_checkable
class WritableFormat(Format, Protocol):
    """A file format that SAEs can be saved in."""

    def write(self, sae: Sae, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Put an SAE into a folder, file by file and each atomically."""
        ...


FORMATS: dict[str, Format] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "gemma_scope": gemma_scope,
    "openmoss": openmoss,
    "array": array,
}
"""Every readable format by its name; ``array`` is what remains when no other one recognises a file."""

WRITABLE: dict[str, WritableFormat] = {"saelens": saelens, "dictionary_learning": dictionary_learning}
"""Every format that SAEs can be saved in, by its name."""


def load_sae(location: str | Path, format: str | None = None) -> Sae:
    """A pretrained SAE, in evaluation mode, float32, on the CPU.

    Args:
        location: a file or folder, or ``hf://owner/name[@revision][/folder]``.
        format: one of ``FORMATS``; None looks at the files.

    Raises:
        FileNotFoundError: if there is nothing at the location.
        ConnectionError: if the hub cannot be reached, and the cache does not hold it.
        ValueError: if the format is unknown or not clear, the files are not what it says, or what they hold cannot be
            run; the message names the key.
    """
    found = locate(location)
    return to_sae(_format_of(found, format).read(found.path), found.location)


def load_dictionary(
    location: str | Path, format: str | None = None, key: str | None = None, rows: Orientation = "features"
) -> Dictionary:
    """The feature directions of a pretrained SAE, whether or not it could be run.

    Args:
        location: as for ``load_sae``, or a file with a bare array.
        format: one of ``FORMATS``; None looks at the files.
        key: which array is the decoder, for a file with several bare arrays.
        rows: what the rows of a bare array are.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as ``load_sae``.
    """
    found = locate(location)
    if format is None and key is not None and found.path.is_file():
        format = array.NAME
    chosen = _format_of(found, format)
    if chosen.NAME != array.NAME and (key is not None or rows != "features"):
        raise ValueError(
            f"{found.location} is in the format {chosen.NAME}, which says itself where the decoder is: key and rows "
            f"are for bare arrays (name one file, or pass format={array.NAME!r})"
        )
    with recording() as used:
        checkpoint = array.read(found.path, key, rows) if chosen.NAME == array.NAME else chosen.read(found.path)
    check(checkpoint, found.location)
    return to_dictionary(checkpoint, found.name, _source(found, chosen.NAME, used))


def resolve(location: str | Path, format: str | None = None) -> Source:
    """Where an SAE is, which format it has, and the digests of the files that it is read from.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as ``load_sae``.
    """
    found = locate(location)
    chosen = _format_of(found, format)
    with recording() as used:
        chosen.read(found.path)
    return _source(found, chosen.NAME, used)


def save_sae(
    sae: Sae, folder: str | Path, metadata: Mapping[str, Any] | None = None, format: str = saelens.NAME
) -> None:
    """Write an SAE in a layout that other libraries load.

    Args:
        sae: one that works on raw activations (any scale folded in, see ``Sae.fold_scale``).
        folder: made if needed; an SAE in it is replaced.
        metadata: JSON values to keep beside it: ``model_name``, ``hook_name``, ``activation_scale``, ...
        format: one of ``WRITABLE``.

    Raises:
        ValueError: if the format is unknown or knows no such SAE.
    """
    if format not in WRITABLE:
        raise ValueError(f"cannot write the format {format!r}; writable are {', '.join(WRITABLE)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    WRITABLE[format].write(sae, folder, metadata or {})


def _format_of(found: Located, format: str | None) -> Format:
    """The format asked for, or the one that recognises the files."""
    if format is not None:
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
        return FORMATS[format]
    special = [name for name in FORMATS if name != array.NAME and FORMATS[name].detects(found.path)]
    if len(special) > 1:
        raise ValueError(
            f"{found.location} could be in the format {' or '.join(special)}; say which (format=, or --format)"
        )
    if special:
        return FORMATS[special[0]]
    if array.detects(found.path):
        return FORMATS[array.NAME]
    looked = "".join(f"\n  {name}: {module.LOOKS_FOR}" for name, module in FORMATS.items())
    raise ValueError(f"{found.location} is in no known format. {_held(found.path)}. Looked for:{looked}")


def _held(path: Path) -> str:
    """What there is instead, for a message."""
    if path.is_file():
        return f"It is a file of {path.stat().st_size:,} bytes, {path.name}"
    names = sorted(file.name + ("/" if file.is_dir() else "") for file in path.iterdir())
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"It holds {shown or 'nothing'}"


def _source(found: Located, format: str, used: set[Path]) -> Source:
    root = found.path.parent if found.path.is_file() else found.path
    files = {Path(os.path.relpath(path, root)).as_posix(): sha256(path) for path in sorted(used)}
    return Source(
        format=format,
        location=found.location,
        path=str(found.path),
        repo=found.repo,
        revision=found.revision,
        files=files,
    )


__all__ = [
    "FORMATS",
    "WRITABLE",
    "Checkpoint",
    "Dictionary",
    "Format",
    "Orientation",
    "Source",
    "load_dictionary",
    "load_sae",
    "resolve",
    "save_sae",
]
