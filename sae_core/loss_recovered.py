"""What a language model loses when it has to think with an SAE's reconstructions.

Part of evaluation. Three passes over the same held-out contexts: the model as it is, with zeros at the hook, and with
reconstructions there. The first two do not depend on the SAE and are made once for all of them
(``reference_losses``). Only positions that the SAE was trained on are changed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from numpy import ndarray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import ActivationsConfig, Result
from sae_core.extraction_plan import kept_tokens
from sae_core.progress import Progress, silent
from sae_core.whole_files import write_whole

_FILE = "reference.safetensors"
_NUMBERS = ("hook", "max_norm", "ce_clean", "ce_zero")
_BATCH_CONTEXTS = 8


@runtime_checkable
class PatchableModel(Protocol):
    """What is needed of a ``LanguageModel``."""

    special_token_ids: frozenset[int]

    def token_losses(
        self, token_ids: Int[Tensor, "b l"], hook: str | None = None, replace: Callable[[Tensor], Tensor] | None = None
    ) -> Float[Tensor, "b l-1"]:
        """Next-token cross-entropy in nats, with the output of the hook replaced."""
        ...


class LossRecovered(Result):
    """Mean next-token loss in nats, and how much of the harm of zeros the reconstructions undo."""

    ce_clean: float
    """The model as it is."""
    ce_patched: float
    """Activations replaced by their reconstructions."""
    ce_zero: float
    """Activations replaced by zeros, at the same positions."""
    n_tokens: int
    """Predictions averaged over."""

    @property
    def recovered(self) -> float | None:
        """(ce_zero - ce_patched) / (ce_zero - ce_clean): 1 is no loss, 0 as bad as zeros; may be negative. None
        where zeros do no harm, so that there is nothing to recover.
        """
        harm = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_patched) / harm if harm > 0 else None


@dataclass(frozen=True)
class ReferenceLosses:
    """The contexts, which of their positions an SAE is trained on, and the model's losses without an SAE."""

    hook: str
    token_ids: Int32[ndarray, "n length"]
    kept: Bool[ndarray, "n length"]
    """Positions that are patched."""
    max_norm: float | None
    """Activations with a larger norm are not patched: SAEs are not trained on them."""
    ce_clean: float
    ce_zero: float

    @property
    def n_tokens(self) -> int:
        """Predictions that the losses are means over: every position but the last one of a context."""
        return int(self.token_ids[:, 1:].size)


def reference_losses(
    model: PatchableModel,
    token_ids: Int32[ndarray, "n length"],
    hook: str,
    trained_on: ActivationsConfig,
    max_norm: float | None,
    n_contexts: int,
    progress: Progress = silent,
) -> ReferenceLosses:
    """The losses that need no SAE, on contexts spread evenly over those given.

    Args:
        trained_on: how the activations were stored, which says what positions an SAE has seen.
        n_contexts: contexts to use, at most.

    Raises:
        ValueError: if none of the contexts has a position that an SAE is trained on.
    """
    spread = np.unique(np.linspace(0, len(token_ids) - 1, min(n_contexts, len(token_ids))).astype(np.int64))
    chosen = token_ids[spread]
    kept = kept_tokens(chosen, model.special_token_ids, trained_on)
    if not kept.any():
        raise ValueError(
            f"none of the {len(chosen)} held-out contexts has a position to patch: all of them are special tokens or "
            "first positions; use more or longer contexts"
        )
    found = ReferenceLosses(hook, chosen, kept, max_norm, 0.0, 0.0)
    clean = _mean_loss(model, found, None, "loss of the model as it is", progress)
    zero = _mean_loss(model, found, lambda x: torch.zeros_like(x), "loss with zeros at the hook", progress)
    return ReferenceLosses(hook, chosen, kept, max_norm, clean, zero)


def loss_recovered(
    sae: Sae, model: PatchableModel, reference: ReferenceLosses, progress: Progress = silent
) -> LossRecovered:
    """The model's loss with an SAE's reconstructions in place of the activations."""

    def reconstruct(x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        x_sae = x.to(sae.W_dec.device, torch.float32)
        return sae.decode(sae.encode(x_sae), x_sae).to(x.device)

    patched = _mean_loss(model, reference, reconstruct, "loss with reconstructions", progress)
    return LossRecovered(
        ce_clean=reference.ce_clean, ce_patched=patched, ce_zero=reference.ce_zero, n_tokens=reference.n_tokens
    )


@torch.no_grad()
def _mean_loss(
    model: PatchableModel,
    contexts: ReferenceLosses,
    change: Callable[[Tensor], Tensor] | None,
    title: str,
    progress: Progress,
) -> float:
    """Mean loss with ``change`` (rows to rows) at the positions that SAEs are trained on; None changes nothing."""
    total, n_contexts = 0.0, len(contexts.token_ids)
    for first in range(0, n_contexts, _BATCH_CONTEXTS):
        batch = slice(first, first + _BATCH_CONTEXTS)
        tokens = torch.from_numpy(contexts.token_ids[batch])
        if change is None:
            losses = model.token_losses(tokens)
        else:
            patch = _patch(change, torch.from_numpy(contexts.kept[batch]), contexts.max_norm)
            losses = model.token_losses(tokens, contexts.hook, patch)
        total += float(losses.double().sum())
        progress(min(first + _BATCH_CONTEXTS, n_contexts), n_contexts, title)
    return total / contexts.n_tokens


def _patch(
    change: Callable[[Tensor], Tensor], kept: Bool[Tensor, "b l"], max_norm: float | None
) -> Callable[[Tensor], Tensor]:
    """``change`` applied to the kept positions of a hook's output whose norm is not too large."""

    def patch(x: Tensor) -> Tensor:
        here = kept.to(x.device)
        if max_norm is not None:
            here = here & (x.norm(dim=-1) <= max_norm)
        x = x.clone()
        x[here] = change(x[here]).to(x.dtype)
        return x

    return patch


def write_reference(folder: Path, reference: ReferenceLosses) -> dict[str, Any]:
    """Write the contexts and losses; returns the losses."""
    arrays = {"token_ids": reference.token_ids, "kept": reference.kept}
    numbers = {name: getattr(reference, name) for name in _NUMBERS}
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_whole(folder / _FILE, lambda part: save_file(contiguous, part, {"json": json.dumps(numbers)}))
    return {"n_contexts": len(reference.token_ids), "n_tokens": reference.n_tokens, **numbers}


def read_reference(folder: Path) -> ReferenceLosses:
    """What ``write_reference`` wrote."""
    with safe_open(folder / _FILE, "numpy") as file:
        numbers = json.loads(file.metadata()["json"])
        return ReferenceLosses(token_ids=file.get_tensor("token_ids"), kept=file.get_tensor("kept"), **numbers)
