"""Files that are there as a whole or not at all, whenever the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``path``, ``<name>.part``, and put it in its place by one rename."""
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)
