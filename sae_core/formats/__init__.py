"""Pretrained sparse autoencoders in and out: one canonical ``Sae`` inside, one file format a module.

A new format is a module with ``detects(path)`` and ``load(path)`` and a line in ``FORMATS``.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

from sae_core.architectures import Sae
from sae_core.formats import saelens
from sae_core.formats.saelens import save_sae


@runtime_checkable
class Format(Protocol):
    """One file format."""

    def detects(self, path: Path) -> bool:
        """Whether a folder is in this format."""
        ...

    def load(self, path: Path) -> Sae:
        """The SAE in it."""
        ...


FORMATS: dict[str, Format] = {"saelens": saelens}
"""Every readable format by its name."""


def load_sae(path: str | Path, format: str | None = None) -> Sae:
    """The SAE in a folder, in evaluation mode, float32, on the CPU.

    Args:
        path: the folder.
        format: one of ``FORMATS``; None looks at the files.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the format is unknown, or the files are not what it says; the message names the key.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no SAE folder {path}; train the SAE first, or check the path")
    if format is None:
        found = [name for name, module in FORMATS.items() if module.detects(path)]
        if not found:
            names = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
            raise ValueError(f"{path} is in no known format ({', '.join(FORMATS)}); it holds {names}")
        format = found[0]
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    return FORMATS[format].load(path)


__all__ = ["FORMATS", "load_sae", "save_sae"]
