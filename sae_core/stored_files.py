"""Whether artifacts still lie in the store as they were written, without copying those of a remote store."""

from pathlib import Path

from upath import UPath

from sae_core.store import MANIFEST, Artifact, ArtifactStore, Manifest, digest_file


def stored_faults(store: ArtifactStore, url: str, content: str, hashes: bool = False) -> list[str]:
    """What is wrong with the artifact that lay at a URL, a line each; nothing when all is well.

    Args:
        url: where it was when it was made; it is looked for at the same place of the store as it is now.
        content: the digest of its content.
        hashes: read and hash every file; else sizes decide.
    """
    where = UPath(url)
    folder = store.root / where.parent.name / where.name
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return [f"{folder}: no artifact there; it was removed, or the store was moved"]
    except OSError as error:
        return [f"{folder}: cannot be read ({error})"]
    except ValueError as error:
        return [f"{folder / MANIFEST}: not a manifest ({str(error).splitlines()[0]})"]
    if manifest.content != content:
        return [f"{folder}: content {manifest.content[:12]}, expected {content[:12]}; it was made again since"]
    return [f"{folder}: {fault}" for fault in changed_files(folder, manifest, hashes)]


def verify(artifact: Artifact) -> list[str]:
    """Hash every file of an artifact again, where it lies: of a remote store not the copy that is worked with.

    Returns:
        What is wrong, a line each; nothing when all is well.
    """
    folder = UPath(artifact.url)
    there = (path.path.removeprefix(folder.path).lstrip("/") for path in folder.rglob("*") if path.is_file())
    added = sorted(name for name in there if name != MANIFEST and name not in artifact.manifest.files)
    return changed_files(folder, artifact.manifest, hashes=True) + [f"{name} is not in the manifest" for name in added]


def changed_files(folder: Path | UPath, manifest: Manifest, hashes: bool = False) -> list[str]:
    """Files of an artifact that are missing or altered, and how."""
    wrong = []
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
            digest = digest_file(folder / name) if hashes and size == entry.size else entry.sha256
        except (FileNotFoundError, NotADirectoryError):
            wrong.append(f"{name} is missing")
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error.strerror or error})")
        else:
            if size != entry.size:
                wrong.append(f"{name} has {size:,} bytes, expected {entry.size:,}")
            elif digest != entry.sha256:
                wrong.append(f"{name} has sha256 {digest[:12]}, expected {entry.sha256[:12]}")
    return wrong
