"""Where an SAE lies: a local file or folder, or a folder of a Hugging Face hub repository, pinned to a commit.

Part of *formats*.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from sae_core.config import Result

HUB = "hf://"
NESTED_BESIDE = "hyperparams.json"
NESTED = ("checkpoints/final.safetensors", "checkpoints/pruned.safetensors")
"""The only weights that a format keeps below the folder itself, and the file beside that says so: nothing else there
is downloaded."""


CONFIGS = ("config.json", "cfg.json", NESTED_BESIDE)
"""Files above a weights file that may say how to read it."""


class Source(Result):
    """Where an SAE was read from, so that it can be found again."""

    format: str
    """One of ``sae_core.formats.FORMATS``."""
    location: str
    """As it was given."""
    path: str
    """File or folder on this machine."""
    repo: str | None
    """``owner/name`` of the hub repository; None for local files."""
    revision: str | None
    """Commit of that repository."""
    files: dict[str, str]
    """Every file that was read, by its path in the folder, with its SHA-256."""


@dataclass(frozen=True)
class Located:
    """A location, found on this machine."""

    location: str
    path: Path
    repo: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """Short name for people: the last part of a path, or repository and folder."""
        return self.location.removeprefix(HUB) if self.repo else self.path.name


def locate(location: str | Path) -> Located:
    """Find a location on this machine; what lies on the hub is downloaded, or taken from the cache.

    Args:
        location: a file or folder, or ``hf://owner/name[@revision][/folder/or/file]``. A revision is a branch, tag or
            commit; ``/`` in it is written ``%2F``.

    Raises:
        FileNotFoundError: if there is no such file or folder, here or in the repository.
        ValueError: if the hub has no such repository or revision, or the location is not of this form.
        ConnectionError: if the hub cannot be reached and the cache does not hold it.
    """
    text = str(location)
    if text.startswith(HUB):
        return _on_hub(text)
    if "://" in text:
        raise ValueError(f"cannot read {text}: a location is a file or folder, or {HUB}owner/name@revision/folder")
    path = Path(text).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no SAE file or folder {path}; train the SAE first, or check the path (on the hub: {HUB}owner/name/folder)"
        )
    return Located(text, path.resolve())


def _on_hub(location: str) -> Located:
    owner, _, rest = location.removeprefix(HUB).partition("/")
    name, _, inside = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise ValueError(f"{location} names no repository: expected {HUB}owner/name[@revision][/folder]")
    repo, inside = f"{owner}/{name}", inside.strip("/")
    root = _snapshot(repo, unquote(revision) or None, inside)
    path, commit = root / inside, root.name
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        raise FileNotFoundError(_nothing_there(repo, commit, inside))
    return Located(location, path, repo, commit)


def _snapshot(repo: str, revision: str | None, inside: str) -> Path:
    """The local folder of the repository at that revision, with what is needed of it; its name is the commit."""
    from huggingface_hub import errors, snapshot_download

    asked = f"{repo} at revision {revision or 'main'}"
    try:
        root = Path(snapshot_download(repo, revision=revision, **_patterns(inside)))
        if (root / inside / NESTED_BESIDE).is_file():
            nested = [_escaped(str(PurePosixPath(inside, name))) for name in NESTED]
            snapshot_download(repo, revision=root.name, allow_patterns=nested)
        return root
    except errors.HFValidationError as error:
        raise ValueError(f"{HUB}{repo} is no repository of the hub ({error}); expected {HUB}owner/name") from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{HUB}{repo} is gated: accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(
            f"the Hugging Face hub has no {asked}, or it is private: check the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # the client raises the errors of its transport, which are not part of its API
        raise ConnectionError(
            f"cannot reach the Hugging Face hub for {asked} ({_reason(error)}), and the cache does not hold all of it; "
            "check the network, or copy the folder here and give its path"
        ) from error


def _patterns(inside: str) -> dict[str, Any]:
    """What to download: what lies directly in the folder, for one may hold hundreds of SAEs; or one file, and the
    configurations beside and above it.
    """
    if not inside:
        return {"ignore_patterns": ["*/*"]}
    folder, escaped = PurePosixPath(inside), _escaped(inside)
    configs = [str(above / name).removeprefix("./") for above in folder.parents for name in CONFIGS]
    return {"allow_patterns": [escaped, f"{escaped}/*", *map(_escaped, configs)], "ignore_patterns": [f"{escaped}/*/*"]}


def _escaped(path: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _nothing_there(repo: str, commit: str, inside: str) -> str:
    from huggingface_hub import HfApi

    wanted = inside or "file in its root"
    try:
        names = HfApi().list_repo_files(repo, revision=commit)
    except Exception as error:  # as above
        return (
            f"the cache holds {HUB}{repo}@{commit}, but no {wanted}, and the hub cannot be reached ({_reason(error)}); "
            "check the network and the folder"
        )
    folders = sorted({str(PurePosixPath(name).parent) for name in names} - {"."})
    shown = ", ".join(folders[:12]) + (", ..." if len(folders) > 12 else "")
    return f"{HUB}{repo}@{commit} has no {wanted}; its folders are {shown or 'none'}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
