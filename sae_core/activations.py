"""Activations of a corpus at one hook point of a language model, written as shards.

Second stage of the flow: language model + corpus -> activations -> SAEs. Training contexts are visited in a seeded
random order and the rows of a shard are permuted, so that training can read shards one after another; held-out
contexts stay in order, for explanations.

A shard holds the rows of the next contexts. Its content depends on nothing but its own contexts, so that a killed
extraction goes on with the first shard that is not complete, and the result is the same.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

from sae_core.config import ActivationsConfig, Result
from sae_core.corpus import SPLITS, Contexts
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent
from sae_core.shards import DTYPES, INDEX, ShardEntry, ShardIndex, shard_name, to_stored, write_index, write_shard
from sae_core.store import digest_file, digest_json, require_free_space

_PLAN = "_extraction.json"
"""What the shards in a folder are made from; private, since it is about the making."""
_ID_BYTES = 4 + 8 + 4
_SHARD_OVERHEAD_BYTES = 4096
"""Page headers and footer of a Parquet file, at most."""


class ExtractionEstimate(Result):
    """What an extraction will write; the counts are exact."""

    n_train_tokens: int
    n_held_out_tokens: int
    n_bytes: int
    """Size of all files, slightly overestimated (headers)."""


class ExtractionSummary(Result):
    """What an extraction wrote."""

    hook: str
    d_in: int
    dtype: str
    n_train_tokens: int
    n_held_out_tokens: int
    n_shards: dict[str, int]
    mean_squared_norm: float
    """Of the training tokens."""


def kept_tokens(
    token_ids: Int32[ndarray, "n length"], special_token_ids: frozenset[int], config: ActivationsConfig
) -> Bool[ndarray, "n length"]:
    """Which tokens are stored: by default neither special tokens nor position 0."""
    kept = np.ones(token_ids.shape, bool)
    if not config.keep_special_tokens:
        kept = ~np.isin(token_ids, np.array(sorted(special_token_ids), np.int32))
    if not config.keep_first_position:
        kept[:, 0] = False
    return kept


def estimate(
    contexts: Contexts, d_in: int, special_token_ids: frozenset[int], config: ActivationsConfig
) -> ExtractionEstimate:
    """Tokens and bytes that ``extract`` will write, known from the token ids alone."""
    plans = {name: _plan(contexts, name, special_token_ids, config) for name in SPLITS}
    return _estimate(plans, d_in, config)


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
    plans = {name: _plan(contexts, name, model.special_token_ids, config) for name in SPLITS}
    needed = _estimate(plans, d_in, config)
    _prepare(folder, model, contexts, hook, config)
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    require_free_space(folder, max(0, needed.n_bytes - written), f"extracting {hook}")
    meter = _Meter(needed.n_train_tokens + needed.n_held_out_tokens, progress or silent)
    entries = {name: _write_split(folder / name, model, plan, hook, config, meter) for name, plan in plans.items()}
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
        n_train_tokens=needed.n_train_tokens,
        n_held_out_tokens=needed.n_held_out_tokens,
        n_shards={name: len(found) for name, found in entries.items()},
        mean_squared_norm=indices["train"].mean_squared_norm,
    ).model_dump(mode="json")


@dataclass(frozen=True)
class _Plan:
    """The work on one split: which contexts go into which shard."""

    name: str
    token_ids: Int32[ndarray, "n length"]
    shards: list[Int64[ndarray, " contexts"]]
    """Contexts of each shard, in the order in which they are read."""
    n_tokens: int
    special_token_ids: frozenset[int]
    shuffle_seed: int | None
    """Seed of the order of a shard's rows; None keeps it."""


def _plan(contexts: Contexts, name: str, special_token_ids: frozenset[int], config: ActivationsConfig) -> _Plan:
    token_ids = contexts.split(name).token_ids  # type: ignore[arg-type]
    blocks = [kept_tokens(token_ids[i : i + 65536], special_token_ids, config) for i in range(0, len(token_ids), 65536)]
    counts = np.concatenate([block.sum(axis=1) for block in blocks])
    n_tokens = int(counts.sum())
    if n_tokens == 0:
        raise ValueError(
            f"the {name} part has no token to store: all of its {len(token_ids)} contexts are special tokens; read more text"
        )
    order, seed = np.arange(len(counts)), None
    if name == "train":
        seed = config.shuffle_seed
        order = np.random.default_rng([seed, 0]).permutation(len(counts))
    order = order[counts[order] > 0]
    # A context belongs to the shard in which its first row falls.
    shard = (np.cumsum(counts[order]) - counts[order]) // config.shard_tokens
    shards = [order[part] for part in np.split(np.arange(len(order)), np.flatnonzero(np.diff(shard)) + 1)]
    return _Plan(name, token_ids, shards, n_tokens, special_token_ids, seed)


def _estimate(plans: dict[str, _Plan], d_in: int, config: ActivationsConfig) -> ExtractionEstimate:
    row = d_in * DTYPES[config.dtype].itemsize + _ID_BYTES
    n_shards = sum(len(plan.shards) for plan in plans.values())
    return ExtractionEstimate(
        n_train_tokens=plans["train"].n_tokens,
        n_held_out_tokens=plans["held_out"].n_tokens,
        n_bytes=sum(plan.n_tokens for plan in plans.values()) * row + n_shards * _SHARD_OVERHEAD_BYTES,
    )


def _prepare(folder: Path, model: LanguageModel, contexts: Contexts, hook: str, config: ActivationsConfig) -> None:
    """Keep what an extraction with the same inputs left in the folder; remove anything else."""
    text = [hashlib.sha256(np.ascontiguousarray(contexts.split(name).token_ids)).hexdigest() for name in SPLITS]
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
        part = folder / (_PLAN + ".part")
        part.write_text(json.dumps({"key": key, "inputs": inputs}, indent=1))
        os.replace(part, plan)
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


def _write_split(
    folder: Path, model: LanguageModel, plan: _Plan, hook: str, config: ActivationsConfig, meter: _Meter
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
            entry = _write_shard(path, model, plan, i, hook, config, meter)
            sidecar = path.with_name(path.name + ".json")
            part = sidecar.with_name(sidecar.name + ".part")
            part.write_text(entry.model_dump_json())
            os.replace(part, sidecar)
        entries.append(entry)
    return entries


def _known(folder: Path) -> dict[str, ShardEntry]:
    """Shards that an earlier, killed extraction completed: by their sidecars, or by the index when it got that far."""
    found = [ShardEntry.model_validate_json(path.read_text()) for path in folder.glob("*.parquet.json")]
    if (folder / INDEX).exists():
        found += ShardIndex.model_validate_json((folder / INDEX).read_text()).shards
    return {entry.file: entry for entry in found}


def _write_shard(
    path: Path, model: LanguageModel, plan: _Plan, i: int, hook: str, config: ActivationsConfig, meter: _Meter
) -> ShardEntry:
    chosen = plan.shards[i]
    kept = kept_tokens(plan.token_ids[chosen], plan.special_token_ids, config)
    context, position = np.nonzero(kept)
    n_rows = len(context)
    # Row r of the shard is the r-th kept token in reading order, or where the permutation puts it.
    target = np.arange(n_rows)
    if plan.shuffle_seed is not None:
        target = np.random.default_rng([plan.shuffle_seed, 1, i]).permutation(n_rows)
    token_ids, context_ids, positions = np.empty(n_rows, np.int32), np.empty(n_rows, np.int64), np.empty(n_rows, np.int32)
    token_ids[target] = plan.token_ids[chosen][kept]
    context_ids[target], positions[target] = chosen[context], position
    rows = torch.empty((n_rows, model.d_in(hook)), dtype=DTYPES[config.dtype])
    done = 0
    for first in range(0, len(chosen), config.batch_contexts):
        batch = slice(first, first + config.batch_contexts)
        output = model.read(torch.from_numpy(plan.token_ids[chosen[batch]]), hook)
        values = output[torch.from_numpy(kept[batch]).to(output.device)]
        here = slice(done, done + len(values))
        name = f"{plan.name}/{path.name}"
        stored = to_stored(values, config.dtype, name, chosen[context[here]])
        rows[torch.from_numpy(target[here])] = stored.cpu()
        done += len(values)
        meter.add(len(values), f"{plan.name} shard {i + 1} of {len(plan.shards)}")
    return write_shard(path, rows, token_ids, context_ids, positions, config.dtype)
