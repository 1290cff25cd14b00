"""Batches of prompts for a local model; what all of them begin with is computed once.

The prompts of a stage share their instructions and solved examples and differ only near the end, so most of the work
of reading them is the same (prefix caching).
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

_MIN_PREFIX = 16
"""A shorter beginning is not worth a copy of its cache for every batch."""


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with, and what the model computed on them."""

    token_ids: list[int]
    cache: Any | None
    """None where there is no prefix, or the model cannot go on from one."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one batch; those shorter than the longest are padded between the prefix and the rest, or on the left
    where there is no prefix."""

    token_ids: Int[Tensor, "b length"]
    mask: Int[Tensor, "b length"]
    cache: Any | None
    """What is known of the prefix, a copy for every row."""
    n_known: int
    """Tokens of the prefix, 0 without."""

    @property
    def rest(self) -> dict[str, Any]:
        """What the model is still to read, as arguments of its forward pass."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": self.token_ids[:, self.n_known :],
            "attention_mask": self.mask,
            "position_ids": positions[:, self.n_known :],
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }


@torch.no_grad()
def read_prefix(model: Any, rows: Sequence[list[int]]) -> Prefix:
    """The common beginning of all rows, at least one token shorter than the shortest, read by the model."""
    shared = _common(rows)
    if len(rows) < 2 or len(shared) < _MIN_PREFIX or not _goes_on(model):
        return Prefix([], None)
    cache = DynamicCache(config=model.config)
    model(
        input_ids=torch.tensor([shared], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    return Prefix(shared, cache)


def _common(rows: Sequence[list[int]]) -> list[int]:
    """The tokens that all rows begin with, the last token of a row not counted."""
    if not rows:
        return []
    # The common beginning of the least and the greatest is that of all.
    least, greatest = min(rows), max(rows)
    n = min(len(row) for row in rows) - 1
    same = (i for i in range(n) if least[i] != greatest[i])
    return least[: next(same, n)]


def _goes_on(model: Any) -> bool:
    """Whether the model reads every earlier token at every layer, so that padding after a prefix does no harm."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    takes = inspect.signature(model.forward).parameters
    everywhere = set(layers) == {"full_attention"} and getattr(config, "sliding_window", None) is None
    return everywhere and {"past_key_values", "position_ids", "logits_to_keep"} <= takes.keys()


def make_batch(prefix: Prefix, rows: Sequence[list[int]], padding: int, device: torch.device) -> Batch:
    """Rows that begin with the prefix, as one batch."""
    known = len(prefix.token_ids)
    length = max(len(row) for row in rows)
    ids = [row[:known] + [padding] * (length - len(row)) + row[known:] for row in rows]
    mask = [[1] * known + [0] * (length - len(row)) + [1] * (len(row) - known) for row in rows]
    cache = None
    if prefix.cache is not None:
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(rows))
    return Batch(torch.tensor(ids, device=device), torch.tensor(mask, device=device), cache, known)
