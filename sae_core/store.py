"""Content-addressed, atomically committed artifact folders: the only module that joins store paths.

An artifact is a folder ``<root>/<kind>/<fingerprint>/``. The fingerprint is a digest of everything that decides the
content: the kind, the version of the code that makes it, the settings, and the content digests of its upstream
artifacts. A build writes into a staging folder that survives a kill, so that it can resume; the manifest is written
last, and one atomic rename commits the folder. A folder without a manifest does not exist for readers.

File names that start with ``_`` belong to the making (manifest, timings), not to the content: they are left out of
the content digest.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from upath import UPath

MANIFEST = "_manifest.json"
FORMAT_VERSION = 1
"""Version of the manifest and of the artifact layouts; an artifact of a newer version is refused."""

_REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "dagster",
    "pyarrow",
    "numpy",
    "scipy",
    "numba",
    "safetensors",
)


class StoreError(RuntimeError):
    """An artifact is missing, altered, or made by a newer version of the project."""


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)
    size: int
    sha256: str


class UpstreamEntry(BaseModel):
    """An artifact that went into another one."""

    model_config = ConfigDict(frozen=True)
    kind: str
    fingerprint: str
    content: str


class Manifest(BaseModel):
    """What ``_manifest.json`` holds: enough to verify an artifact, trace it, and make it again."""

    model_config = ConfigDict(frozen=True)
    format_version: int
    kind: str
    fingerprint: str
    code_version: str
    inputs: dict[str, Any]
    upstream: dict[str, UpstreamEntry]
    content: str
    files: dict[str, FileEntry]
    summary: dict[str, Any]
    environment: dict[str, str]
    created: str
    seconds: float
    recipe: dict[str, Any] | None = None
    """Which stage made it, with which arguments (:mod:`sae_core.recipes`); not part of the fingerprint or the content.
    None in artifacts that were made before recipes were kept."""


class Artifact:
    """A committed artifact folder."""

    def __init__(self, locate: Callable[[], Path], url: str, manifest: Manifest, cache_hit: bool):
        self._locate, self.url, self.manifest, self.cache_hit = locate, url, manifest, cache_hit

    @cached_property
    def path(self) -> Path:
        """Local folder with the files. Of a remote store they are copied when they are first asked for."""
        return self._locate()

    @property
    def content(self) -> str:
        """Digest of the content: equal content, equal digest, whoever made it when."""
        return self.manifest.content

    @property
    def summary(self) -> dict[str, Any]:
        """Small numbers that describe the artifact, as its build returned them."""
        return self.manifest.summary

    def entry(self) -> UpstreamEntry:
        """How the manifests of other artifacts refer to this one."""
        return UpstreamEntry(kind=self.manifest.kind, fingerprint=self.manifest.fingerprint, content=self.content)

    def __repr__(self) -> str:
        return f"Artifact({self.manifest.kind}/{self.manifest.fingerprint}, content {self.content[:12]})"


def digest_json(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path | UPath) -> str:
    """sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_digest(files: Mapping[str, FileEntry]) -> str:
    return digest_json({name: entry.sha256 for name, entry in files.items() if not is_private(name)})


def is_private(name: str) -> bool:
    """Whether a file of an artifact belongs to its making and not to its content: a part of its name begins with _."""
    return any(part.startswith("_") for part in name.split("/"))


def _list_files(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=digest_file(path))
        for path in paths
    }


def environment() -> dict[str, str]:
    """Versions, machine, threads and git commit of this process, for manifests."""
    # Sums of many numbers depend in their last digits on how many threads share them.
    torch = sys.modules.get("torch")
    return _environment() | ({} if torch is None else {"threads": str(torch.get_num_threads())})


@cache
def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.node()}
    for package in _REPORTED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        root = Path(__file__).resolve().parent.parent
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        found["git_commit"] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["git_commit"] = "unknown (not a git checkout)"
    return found


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """Refuse work that the disk cannot hold (with 5 % to spare), before it starts.

    Raises:
        OSError: ENOSPC, with the need and what is free.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes * 1.05 > free:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {n_bytes / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; free some space, "
            "read fewer tokens, or put the store on a larger disk (SAE_CONCORD_STORE)",
        )


class ArtifactStore:
    """Artifacts under one root, a local folder or any fsspec URL (``file://``, ``s3://``, ``memory://``).

    Args:
        root: folder or URL.
        scratch: local folder for staging and for copies of remote artifacts; by default inside a local root.
    """

    def __init__(self, root: str | Path, scratch: str | Path | None = None):
        self.root = UPath(root)
        self.is_local = self.root.protocol in ("", "file", "local")
        if self.is_local:
            self.root = UPath(Path(self.root.path).absolute())
        if scratch is None:
            scratch = Path(self.root.path) / ".staging" if self.is_local else Path.home() / ".cache" / "sae-concord"
        self.scratch = Path(scratch)

    @property
    def logs(self) -> Path:
        """Local folder for what is written to be watched and is no artifact: beside the artifacts, where the root is
        local, else the scratch folder.
        """
        return Path(self.root.path) if self.is_local else self.scratch

    @property
    def replies(self) -> Path:
        """Local folder of what models that write text replied, by the digest of the prompt: kept over all artifacts, so
        that nothing is asked for twice.
        """
        return self.logs / "replies"

    def fingerprint(
        self, kind: str, code_version: str, inputs: Mapping[str, Any], upstream: Mapping[str, Artifact]
    ) -> str:
        """32 hex digits that name an artifact before it is made."""
        contents = {name: artifact.content for name, artifact in upstream.items()}
        return digest_json({"kind": kind, "code": code_version, "inputs": inputs, "upstream": contents})[:32]

    def get(self, kind: str, fingerprint: str) -> Artifact | None:
        """The artifact, or None where there is none.

        Raises:
            StoreError: if its manifest cannot be read, or a newer version of the project wrote it.
        """
        folder = self.root / kind / fingerprint
        try:
            text = (folder / MANIFEST).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        manifest = _read_manifest(text, str(folder))
        return Artifact(lambda: self._local(folder, kind, fingerprint), str(folder), manifest, cache_hit=True)

    def open(self, url: str | Path, content: str | None = None) -> Artifact:
        """The artifact in a folder of this store, refused unless it has the content digest that is expected.

        Raises:
            StoreError: if there is none, or it holds something else.
        """
        folder = UPath(url)
        artifact = self.get(folder.parent.name, folder.name)
        if artifact is None:
            where = self.root / folder.parent.name / folder.name
            raise StoreError(
                f"no artifact in {where}: the store was moved or cleaned; materialize its asset again, or set "
                "SAE_CONCORD_STORE to where the store is now"
            )
        if content is not None and artifact.content != content:
            raise StoreError(
                f"{folder} holds content {artifact.content[:12]}, expected {content[:12]}: "
                "it was rebuilt since; materialize what lies upstream again"
            )
        return artifact

    def get_or_build(
        self,
        kind: str,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        code_version: str,
        inputs: Mapping[str, Any],
        upstream: Mapping[str, Artifact] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """The artifact with these inputs: at once when it exists, else made by ``build``.

        Args:
            build: writes the files into the folder it is given and returns the summary (JSON values). The folder
                keeps what a killed build left there, so that a build can resume from it; a build that cannot resume
                overwrites.
            inputs: JSON values; everything besides the upstream artifacts and the code that decides the content.
            recipe: of :mod:`sae_core.recipes`: how to make it again; decides nothing. An artifact that has none yet
                gets it, where the folder can be written.

        Two processes that ask for the same artifact wait for each other; the second one gets a cache hit. When
        ``build`` raises, what it wrote stays for the next try.
        """
        upstream = dict(upstream or {})
        fingerprint = self.fingerprint(kind, code_version, inputs, upstream)
        if hit := self.get(kind, fingerprint):
            return self.add_recipe(hit, recipe)
        staging = self.scratch / kind / fingerprint
        lock = staging.with_suffix(".lock")
        try:
            staging.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError as error:
            raise OSError(
                error.errno,
                f"the store cannot be written: {staging.parent} ({error.strerror}); get the right to write there, or "
                "set SAE_CONCORD_STORE to a folder of your own",
            ) from error
        with _exclusive(lock):
            if hit := self.get(kind, fingerprint):  # made by another process while we waited
                return hit
            staging.mkdir(exist_ok=True)
            start = time.monotonic()
            try:
                summary = dict(build(staging))
            except OSError as error:
                if error.errno == errno.ENOSPC and "SAE_CONCORD_STORE" not in str(error):
                    raise OSError(
                        errno.ENOSPC,
                        f"the disk of {staging} is full; free some space and run the same command again: "
                        "what was written is kept and the work resumes there",
                    ) from error
                raise
            files = _list_files(staging)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                kind=kind,
                fingerprint=fingerprint,
                code_version=code_version,
                inputs=dict(inputs),
                upstream={name: artifact.entry() for name, artifact in upstream.items()},
                content=_content_digest(files),
                files=files,
                summary=summary,
                environment=environment(),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - start, 3),
                recipe=None if recipe is None else dict(recipe),
            )
            self._commit(staging, kind, fingerprint, manifest)
        artifact = self.get(kind, fingerprint)
        if artifact is None:
            raise StoreError(
                f"{kind}/{fingerprint} vanished right after it was committed: is something cleaning {self.root}?"
            )
        artifact.cache_hit = False
        return artifact

    def add_recipe(self, artifact: Artifact, recipe: Mapping[str, Any] | None) -> Artifact:
        """The same artifact, its recipe added to the manifest where it lacks one: it may be older than recipes are.

        Where the manifest cannot be written, and in remote stores, it stays as it is.
        """
        if recipe is None or artifact.manifest.recipe is not None or not self.is_local:
            return artifact
        path = artifact.path / MANIFEST
        if not os.access(path.parent, os.W_OK):
            return artifact
        artifact.manifest = artifact.manifest.model_copy(update={"recipe": dict(recipe)})
        self.scratch.mkdir(parents=True, exist_ok=True)
        # In the scratch folder: what a kill leaves in the artifact would be no part of it.
        handle, part = tempfile.mkstemp(dir=self.scratch, suffix=".manifest")
        with os.fdopen(handle, "w") as file:
            file.write(artifact.manifest.model_dump_json(indent=1))
        os.chmod(part, path.stat().st_mode)
        os.replace(part, path)
        return artifact

    def upstream(self, artifact: Artifact) -> dict[str, Artifact | None]:
        """The artifacts that went into one, by name; None for those no longer in the store."""
        return {name: self.get(entry.kind, entry.fingerprint) for name, entry in artifact.manifest.upstream.items()}

    def artifacts(self, of_kind: str | None = None) -> Iterator[Artifact]:
        """Every committed artifact, or every one of a kind."""
        if not self.root.exists():
            return
        for kind in sorted(self.root.iterdir(), key=lambda path: path.name):
            if kind.is_dir() and not kind.name.startswith(".") and of_kind in (None, kind.name):
                for folder in sorted(kind.iterdir(), key=lambda path: path.name):
                    if artifact := self.get(kind.name, folder.name):
                        yield artifact

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact. Its manifest goes first, so that no reader ever finds half of it."""
        folder = self.root / artifact.manifest.kind / artifact.manifest.fingerprint
        (folder / MANIFEST).unlink(missing_ok=True)
        if self.is_local:
            shutil.rmtree(folder.path)
            return
        for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        shutil.rmtree(self._copy(artifact.manifest.kind, artifact.manifest.fingerprint), ignore_errors=True)

    def _commit(self, staging: Path, kind: str, fingerprint: str, manifest: Manifest) -> None:
        final = self.root / kind / fingerprint
        text = manifest.model_dump_json(indent=1)
        if self.is_local:
            (staging / MANIFEST).write_text(text)
            Path(final.parent.path).mkdir(parents=True, exist_ok=True)
            os.rename(staging, final.path)
            return
        # Object stores have no rename: the files first, the manifest, which makes them visible, last.
        for name in manifest.files:
            target = final / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(staging / name, "rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        (final / MANIFEST).write_text(text)
        shutil.rmtree(staging)

    def _local(self, folder: UPath, kind: str, fingerprint: str) -> Path:
        if self.is_local:
            return Path(folder.path)
        copy = self._copy(kind, fingerprint)
        if (copy / MANIFEST).exists():
            return copy
        manifest = _read_manifest((folder / MANIFEST).read_text(), str(folder))
        for name in [*manifest.files, MANIFEST]:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            with (folder / name).open("rb") as source, open(part, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            os.replace(part, target)
        return copy

    def _copy(self, kind: str, fingerprint: str) -> Path:
        """Where the files of a remote artifact are copied to."""
        return self.scratch / "copies" / kind / fingerprint


def _read_manifest(text: str, where: str) -> Manifest:
    try:
        version = json.loads(text)["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{where}/{MANIFEST} is not a manifest ({error}); delete the folder and materialize again"
        ) from error
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{where} has format version {version}, this version of sae-concord reads up to {FORMAT_VERSION}; "
            "upgrade sae-concord, or point SAE_CONCORD_STORE to another store"
        )
    return Manifest.model_validate_json(text)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a file lock; the system gives it back when the process dies, however it dies."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {path.stem} ({path.parent.name})", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
