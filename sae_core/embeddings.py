"""Sentence embeddings of explanations, by sentence-transformers: the measure behind *scoring* and *similarity*."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from sentence_transformers import SentenceTransformer

from sae_core.config import EmbedderConfig, PackagedEmbedder
from sae_core.packages import package_path
from sae_core.progress import Progress, silent
from sae_core.store import digest_file

Embed = Callable[[list[str]], Float[np.ndarray, "texts dim"]]
"""Texts to vectors, one row each."""

_BATCH = 64
_PROGRESS_TEXTS = 1024


def load_embedder(config: EmbedderConfig) -> Embed:
    """The configured embedder as a function from texts to unit vectors.

    Raises:
        ModuleNotFoundError: if it is packaged and the package is not installed; the message has the command.
        FileNotFoundError: if the package has no such folder.
    """
    model = SentenceTransformer(
        embedder_location(config), device="cpu", model_kwargs={"dtype": getattr(torch, config.dtype)}
    )

    def embed(texts: list[str]) -> Float[np.ndarray, "texts dim"]:
        with torch.no_grad():
            rows = model.encode(texts, batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False)
        vectors: np.ndarray = rows.float().numpy()
        return vectors

    return embed


def embedder_location(config: EmbedderConfig) -> str:
    """Folder of the packaged embedder, or the name or folder of another one.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        FileNotFoundError: if it has no such folder.
    """
    embedder = config.source
    if isinstance(embedder, PackagedEmbedder):
        return str(package_path(embedder.package, embedder.folder, embedder.install))
    return embedder.name


def embedder_digest(config: EmbedderConfig) -> str:
    """Identifies the embedder: a digest of its files where it is a folder, its name where it is on the hub."""
    location = embedder_location(config)
    folder = Path(location)
    if not folder.is_dir():
        return location
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {digest_file(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def embed_distinct(
    texts: list[str], embed: Embed, progress: Progress = silent
) -> tuple[dict[str, int], Float[np.ndarray, "distinct dim"]]:
    """Unit vectors of the distinct texts, and the row of each text. Every text is embedded once.

    Raises:
        ValueError: if the embedder returns another number of rows, or a vector that is zero or not finite.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))  # texts of like length share a batch
    parts = []
    for start in range(0, len(distinct), _PROGRESS_TEXTS):
        part = distinct[start : start + _PROGRESS_TEXTS]
        rows = np.asarray(embed(part), dtype=np.float64)
        if rows.ndim != 2 or len(rows) != len(part):
            raise ValueError(f"the embedder must return a row for each of {len(part)} texts, got shape {rows.shape}")
        length = np.linalg.norm(rows, axis=1)
        if not (np.isfinite(length) & (length > 0)).all():
            bad = part[int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])]
            raise ValueError(f"the embedder returned a vector that is zero or not finite for {bad!r}; use another one")
        parts.append((rows / length[:, None]).astype(np.float32))
        done = start + len(part)
        progress(done, len(distinct), f"{done:,} of {len(distinct):,} explanations embedded")
    vectors = np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)
    return {text: i for i, text in enumerate(distinct)}, vectors
