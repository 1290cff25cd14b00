"""Files that installed Python packages carry: located, never imported.

Models, corpora and embedders may come inside ordinary packages. Importing those would run their code (and need
their dependencies) only to read a data file.
"""

from importlib.util import find_spec
from pathlib import Path


def package_path(package: str, inside: str, install: str) -> Path:
    """Path of a file or folder inside an installed package.

    Args:
        package: import name; of a dotted name only the first part is looked up, since looking up more would import.
        inside: path below the package's folder.
        install: the command that installs the package, for the message.

    Raises:
        ModuleNotFoundError: if the package is not installed; the message has the command.
        FileNotFoundError: if it is installed but has no such file.
    """
    top, *below = package.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {package} is not installed; install it with: {install}")
    candidates = [Path(folder, *below, inside) for folder in spec.submodule_search_locations]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"package {package} is installed but has no {inside} (looked at {candidates[0]}): is it the right version? "
        f"Install it with: {install}"
    )
