"""Activations of a corpus at one hook point of a language model, written as shards.

Second stage of the flow: language model + corpus -> activations -> SAEs. Training contexts are visited in a seeded
random order and the rows of a shard are permuted, so that training can read shards one after another; held-out
contexts stay in order, for explanations.

A shard holds the rows of the next contexts. Its content depends on nothing but its own contexts, so that a killed
extraction goes on with the first shard that is not complete, and the result is the same.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from sae_core.config import ActivationsConfig, Result
from sae_core.corpus import SPLITS, Contexts
from sae_core.extraction_plan import ExtractionEstimate, SplitPlan, estimate, estimate_bytes, kept_tokens, plan_split
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent
from sae_core.shard_files import (
    DTYPES,
    INDEX,
    ShardEntry,
    ShardIndex,
    shard_name,
    to_stored,
    write_index,
    write_shard,
)
from sae_core.store import digest_file, digest_json, require_free_space
from sae_core.whole_files import write_whole

__all__ = ["ExtractionEstimate", "ExtractionSummary", "estimate", "extract", "kept_tokens"]

_PLAN = "_extraction.json"
"""What the shards in a folder are made from; private, since it is about the making."""
MEDIAN_CONTEXTS = 64
"""Contexts on which the median norm is measured."""


class ExtractionSummary(Result):
    """What an extraction wrote."""

    hook: str
    d_in: int
    dtype: str
    n_train_tokens: int
    n_held_out_tokens: int
    n_shards: dict[str, int]
    max_norm: float | None
    """Tokens with a larger norm were left out; None where ``max_norm_ratio`` is off."""
    n_left_out: int
    """Tokens of both splits left out because of their norm."""
    mean_squared_norm: float
    """Of the training tokens, as stored."""


def extract(
    folder: Path,
    model: LanguageModel,
    contexts: Contexts,
    hook: str,
    config: ActivationsConfig,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``train`` and ``held_out`` shards of a hook's output into a folder.

    A folder where an extraction with the same inputs was killed is completed: shards that are whole are kept. What
    another extraction left is removed.

    Returns:
        An ``ExtractionSummary`` as JSON values.

    Raises:
        ValueError: if the hook does not exist, a split has no token to store, or an activation is NaN, infinite or too
            large for float16 (the message names shard and context, and the remedy).
        OSError: if the disk cannot hold the shards; before anything is computed.
    """
    d_in = model.d_in(hook)
    plans = {name: plan_split(contexts, name, model.special_token_ids, config) for name in SPLITS}
    needed = estimate_bytes(plans, d_in, config)
    _prepare(folder, model, contexts, hook, config)
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    require_free_space(folder, max(0, needed.n_bytes - written), f"extracting {hook}")
    n_tokens = needed.n_train_tokens + needed.n_held_out_tokens
    progress = progress or silent
    progress(0, n_tokens, f"{n_tokens:,} tokens of width {d_in}, {needed.n_bytes / 1e9:.2f} GB of shards")
    meter = _Meter(n_tokens, progress)
    reader = _Reader(model, hook, config)
    max_norm = reader.limit(plans["train"])
    entries = {name: _write_split(folder / name, reader, plan, max_norm, meter) for name, plan in plans.items()}
    # Only now: an index says that all shards of the folder are there.
    indices = {name: write_index(folder / name, found, d_in, config.dtype) for name, found in entries.items()}
    for name in SPLITS:
        for sidecar in (folder / name).glob("*.parquet.json"):
            sidecar.unlink()
    meter.write(folder / "_timing.json")
    return ExtractionSummary(
        hook=hook,
        d_in=d_in,
        dtype=config.dtype,
        n_train_tokens=indices["train"].n_tokens,
        n_held_out_tokens=indices["held_out"].n_tokens,
        n_shards={name: len(found) for name, found in entries.items()},
        max_norm=max_norm,
        n_left_out=n_tokens - sum(index.n_tokens for index in indices.values()),
        mean_squared_norm=indices["train"].mean_squared_norm,
    ).model_dump(mode="json")


def _prepare(folder: Path, model: LanguageModel, contexts: Contexts, hook: str, config: ActivationsConfig) -> None:
    """Keep what an extraction with the same inputs left in the folder; remove anything else."""
    text = [hashlib.sha256(contexts.split(name).token_ids.tobytes()).hexdigest() for name in SPLITS]
    inputs = {
        "model": model.digest,
        "model_dtype": str(model.model.dtype),
        "device": model.device.type,
        "contexts": text,
        "hook": hook,
        "config": config.model_dump(mode="json"),
    }
    plan = folder / _PLAN
    key = digest_json(inputs)
    if not plan.exists() or json.loads(plan.read_text()).get("key") != key:
        for name in SPLITS:
            shutil.rmtree(folder / name, ignore_errors=True)
        write_whole(plan, lambda part: part.write_text(json.dumps({"key": key, "inputs": inputs}, indent=1)))
    for name in SPLITS:
        (folder / name).mkdir(parents=True, exist_ok=True)


class _Meter:
    """Tokens done so far, and how fast."""

    def __init__(self, total: int, progress: Progress):
        self.total, self.progress = total, progress
        self.done = self.computed = 0
        self.start = time.monotonic()

    def add(self, n_tokens: int, text: str, computed: bool = True) -> None:
        self.done += n_tokens
        self.computed += n_tokens if computed else 0
        self.progress(self.done, self.total, f"{text}, {self.tokens_per_s:,.0f} tokens/s" if computed else text)

    @property
    def tokens_per_s(self) -> float:
        return self.computed / max(time.monotonic() - self.start, 1e-9)

    def write(self, path: Path) -> None:
        seconds = time.monotonic() - self.start
        path.write_text(json.dumps({"seconds": seconds, "n_tokens": self.computed, "tokens_per_s": self.tokens_per_s}))


@dataclass(frozen=True)
class _Reader:
    """Runs the language model over the contexts of a plan."""

    model: LanguageModel
    hook: str
    config: ActivationsConfig

    def outputs(
        self, plan: SplitPlan, chosen: Int64[ndarray, " contexts"]
    ) -> Iterator[tuple[Tensor, ndarray, ndarray]]:
        """For each forward pass: vectors of the kept tokens, their context ids and positions, in reading order."""
        for first in range(0, len(chosen), self.config.batch_contexts):
            batch = chosen[first : first + self.config.batch_contexts]
            token_ids = plan.token_ids[batch]
            kept = kept_tokens(token_ids, plan.special_token_ids, self.config)
            output = self.model.read(torch.from_numpy(token_ids), self.hook)
            context, position = np.nonzero(kept)
            yield output[torch.from_numpy(kept).to(output.device)], batch[context], position

    def limit(self, plan: SplitPlan) -> float | None:
        """The largest norm that is stored: ``max_norm_ratio`` times the median over the first contexts of the plan."""
        if self.config.max_norm_ratio is None:
            return None
        first = np.concatenate(plan.shards)[:MEDIAN_CONTEXTS]
        norms = torch.cat([vectors.float().norm(dim=1).cpu() for vectors, _, _ in self.outputs(plan, first)])
        if not torch.isfinite(norms).all():
            return math.inf  # refused, with shard and context, as soon as that shard is made
        return self.config.max_norm_ratio * float(norms.median())


def _write_split(
    folder: Path, reader: _Reader, plan: SplitPlan, max_norm: float | None, meter: _Meter
) -> list[ShardEntry]:
    """Write the shards of one split, except those that are there already, whole."""
    known = _known(folder)
    entries = []
    for i in range(len(plan.shards)):
        path = folder / shard_name(i)
        entry = known.get(path.name)
        if entry and path.exists() and digest_file(path) == entry.sha256:
            meter.add(entry.n_tokens, f"{plan.name} shard {i + 1} of {len(plan.shards)} was there", computed=False)
        else:
            entry = _write_shard(path, reader, plan, i, max_norm, meter)
            _remember(path, entry)
        entries.append(entry)
    return entries


def _remember(path: Path, entry: ShardEntry) -> None:
    sidecar = path.with_name(path.name + ".json")
    write_whole(sidecar, lambda part: part.write_text(entry.model_dump_json()))


def _known(folder: Path) -> dict[str, ShardEntry]:
    """Shards that an earlier, killed extraction completed: by their sidecars, or by the index when it got that far."""
    found = [ShardEntry.model_validate_json(path.read_text()) for path in folder.glob("*.parquet.json")]
    if (folder / INDEX).exists():
        found += ShardIndex.model_validate_json((folder / INDEX).read_text()).shards
    return {entry.file: entry for entry in found}


def _write_shard(
    path: Path, reader: _Reader, plan: SplitPlan, i: int, max_norm: float | None, meter: _Meter
) -> ShardEntry:
    dtype, chosen = reader.config.dtype, plan.shards[i]
    most = int(kept_tokens(plan.token_ids[chosen], plan.special_token_ids, reader.config).sum())
    rows = torch.empty((most, reader.model.d_in(reader.hook)), dtype=DTYPES[dtype])
    context_ids, positions = np.empty(most, np.int64), np.empty(most, np.int32)
    n = 0
    for vectors, contexts, places in reader.outputs(plan, chosen):
        meter.add(len(vectors), f"{plan.name} shard {i + 1} of {len(plan.shards)}")
        if max_norm is not None:
            # "Not above" rather than "at most": a NaN stays in, to be refused when it is stored.
            large = (vectors.float().norm(dim=1) > max_norm).cpu().numpy()
            stays = ~large | (places == 0)  # position 0 is only here when it was asked for
            vectors = vectors[torch.from_numpy(stays).to(vectors.device)]
            contexts, places = contexts[stays], places[stays]
        here = slice(n, n + len(vectors))
        rows[here] = to_stored(vectors, dtype, f"{plan.name}/{path.name}", contexts).cpu()
        context_ids[here], positions[here] = contexts, places
        n += len(vectors)
    order = np.arange(n)
    if plan.shuffle_seed is not None:
        order = np.random.default_rng([plan.shuffle_seed, 1, i]).permutation(n)
        rows = rows[torch.from_numpy(order)]
    context_ids, positions = context_ids[order], positions[order]
    return write_shard(path, rows[:n], plan.token_ids[context_ids, positions], context_ids, positions, dtype)
