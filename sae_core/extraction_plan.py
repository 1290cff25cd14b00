"""Which tokens an extraction stores, in which shard, and how many bytes they take: known from the token ids alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

from sae_core.config import ActivationsConfig, Result
from sae_core.corpus import SPLITS, Contexts, SplitName
from sae_core.shard_files import DTYPES

_ID_BYTES = 4 + 8 + 4
_SHARD_OVERHEAD_BYTES = 4096
"""Page headers and footer of a Parquet file, at most."""
_BLOCK_CONTEXTS = 65_536


class ExtractionEstimate(Result):
    """What an extraction will write; exact, but for tokens left out because of their norm."""

    n_train_tokens: int
    n_held_out_tokens: int
    n_bytes: int
    """Size of all files, slightly overestimated (headers)."""


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
    plans = {name: plan_split(contexts, name, special_token_ids, config) for name in SPLITS}
    return estimate_bytes(plans, d_in, config)


@dataclass(frozen=True)
class SplitPlan:
    """The work on one split: which contexts go into which shard."""

    name: str
    token_ids: Int32[ndarray, "n length"]
    shards: list[Int64[ndarray, " _"]]
    """Contexts of each shard, in the order in which they are read."""
    n_tokens: int
    special_token_ids: frozenset[int]
    shuffle_seed: int | None
    """Seed of the order of a shard's rows; None keeps it."""


def plan_split(
    contexts: Contexts, name: SplitName, special_token_ids: frozenset[int], config: ActivationsConfig
) -> SplitPlan:
    """Assign the contexts of a split to shards of about ``shard_tokens`` rows.

    Raises:
        ValueError: if there is no token to store.
    """
    token_ids = contexts.split(name).token_ids
    blocks = [
        kept_tokens(token_ids[i : i + _BLOCK_CONTEXTS], special_token_ids, config)
        for i in range(0, len(token_ids), _BLOCK_CONTEXTS)
    ]
    counts = np.concatenate([block.sum(axis=1) for block in blocks])
    n_tokens = int(counts.sum())
    if n_tokens == 0:
        raise ValueError(
            f"the {name} part has no token to store: all {len(token_ids)} contexts hold nothing but special tokens; "
            "read more text"
        )
    order, seed = np.arange(len(counts)), None
    if name == "train":
        seed = config.shuffle_seed
        order = np.random.default_rng([seed, 0]).permutation(len(counts))
    order = order[counts[order] > 0]
    # A context belongs to the shard in which its first row falls.
    shard = (np.cumsum(counts[order]) - counts[order]) // config.shard_tokens
    shards = [order[part] for part in np.split(np.arange(len(order)), np.flatnonzero(np.diff(shard)) + 1)]
    return SplitPlan(name, token_ids, shards, n_tokens, special_token_ids, seed)


def estimate_bytes(plans: dict[SplitName, SplitPlan], d_in: int, config: ActivationsConfig) -> ExtractionEstimate:
    """Counts and sizes of what two plans will write."""
    row = d_in * DTYPES[config.dtype].itemsize + _ID_BYTES
    n_shards = sum(len(plan.shards) for plan in plans.values())
    return ExtractionEstimate(
        n_train_tokens=plans["train"].n_tokens,
        n_held_out_tokens=plans["held_out"].n_tokens,
        n_bytes=sum(plan.n_tokens for plan in plans.values()) * row + n_shards * _SHARD_OVERHEAD_BYTES,
    )
