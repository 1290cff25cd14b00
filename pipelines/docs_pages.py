"""Copy a generated page into a folder of documentation."""

import re
import shutil
from pathlib import Path

from sae_core.whole_files import write_whole

_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def require_folder(docs: Path) -> None:
    """Refuse a folder that does not exist, before minutes of work.

    Raises:
        FileNotFoundError: naming it.
    """
    if not docs.is_dir():
        raise FileNotFoundError(f"--docs: there is no folder {docs.absolute()}; make it first")


def publish(page: Path, docs: Path) -> list[Path]:
    """Copy a Markdown page, and what lies beside it and is linked from it, into a folder.

    Each file is there as a whole or as it was before; the page comes last, so that it shows nothing that is missing.

    Returns:
        The files written.
    """
    linked = sorted(set(_LINK.findall(page.read_text(encoding="utf-8"))))
    names = [name for name in linked if (page.parent / name).is_file()]
    return [_copied(page.parent / name, docs / name) for name in [*names, page.name]]


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, lambda part: shutil.copyfile(source, part))
    return target
