"""Where things lie: the project folder, Dagster's home, the store; and the files that users wrote."""

import os
import shutil
from pathlib import Path

from pipelines.loading import ProjectFiles, load_project

ROOT = Path(__file__).resolve().parent.parent


def dagster_home() -> Path:
    """``DAGSTER_HOME``, or ``.concord/dagster`` in the project; made on first use.

    Raises:
        OSError: if it cannot be made or written.
    """
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(ROOT / ".concord" / "dagster")))
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            shutil.copy(ROOT / "pipelines" / "dagster.yaml", home / "dagster.yaml")
    except OSError as error:
        raise OSError(
            error.errno,
            f"Dagster's home {home} cannot be written ({error.strerror}): set DAGSTER_HOME to a folder of your own",
        ) from error
    return home


def project_files() -> ProjectFiles:
    """What the YAML files define; what is broken is listed, and takes nothing else down."""
    return load_project(ROOT)
