"""How good one SAE is, on held-out tokens: L0, FVE, dead features, frequencies, and the language model's loss.

After ``training``; ``consistency`` and ``explanations`` use the frequencies, ``report`` the numbers.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import EvaluationConfig, Result
from sae_core.progress import Progress, silent
from sae_core.shards import Shards

BATCH_TOKENS = 4096
"""Tokens encoded at once; only memory and speed depend on it."""


class LossRecovered(Result):
    """What the language model loses when it has to think with reconstructions. Mean next-token loss in nats."""

    ce_clean: float
    """The model as it is."""
    ce_patched: float
    """Activations replaced by their reconstructions."""
    ce_zero: float
    """Activations replaced by zero, at the same positions."""
    n_tokens: int
    """Predictions averaged over."""

    @property
    def recovered(self) -> float | None:
        """(ce_zero - ce_patched) / (ce_zero - ce_clean): 1 is no loss, 0 as bad as zeros; may be negative. None
        where zeros do no harm, so that there is nothing to recover."""
        harm = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_patched) / harm if harm > 0 else None


class EvaluationSummary(Result):
    """Numbers of one SAE on held-out tokens."""

    n_tokens: int
    """Held-out tokens measured on."""
    d_sae: int
    l0: float
    """Features active on a token, mean."""
    fve: float
    """Fraction of variance explained: one minus the sum of squared errors over the sum of squared deviations from
    the mean; at most 1, negative when worse than the mean."""
    n_alive: int
    """Features that fired at least once."""
    dead_fraction: float
    """Share of features that never fired on these tokens."""
    n_dense: int
    """Features that fire on more than a tenth of the tokens."""
    mean_squared_norm: float
    """Of the activations."""
    reconstruction_norm_ratio: float
    """Mean norm of the reconstructions over mean norm of the activations: below 1 is shrinkage."""


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found."""

    summary: EvaluationSummary
    features: pa.Table
    """A row a feature: feature_id, n_fired, frequency (share of tokens), mean_activation (where it fired, null when it
    never did), max_activation."""


@torch.no_grad()
def evaluate(sae: Sae, shards: Shards, config: EvaluationConfig, progress: Progress = silent) -> Evaluation:
    """Measure an SAE on the first ``config.n_tokens`` held-out activations, in stored order.

    Raises:
        ValueError: if the widths differ, or the activations do not vary.
    """
    if shards.d_in != sae.d_in:
        raise ValueError(
            f"the SAE reads activations of width {sae.d_in}, the shards hold {shards.d_in}; check the hook"
        )
    sums = _Sums(sae)
    total = min(config.n_tokens, shards.n_tokens)
    for block in shards.in_order(BATCH_TOKENS):
        sums.add(block.activations[: total - sums.n_tokens])
        progress(sums.n_tokens, total, f"{sums.n_tokens:,} held-out tokens")
        if sums.n_tokens >= total:
            break
    return sums.evaluation()


class _Sums:
    """Sums over tokens, in float64."""

    def __init__(self, sae: Sae):
        self.sae, self.n_tokens = sae, 0
        zeros = torch.zeros(sae.d_sae, dtype=torch.float64)
        self.n_fired, self.activation, self.largest = zeros.clone(), zeros.clone(), zeros.clone()
        self.x = torch.zeros(sae.d_in, dtype=torch.float64)
        self.squares = self.error = self.norm = self.norm_hat = 0.0

    def add(self, x: Float[Tensor, "n d_in"]) -> None:
        x = x.to(self.sae.W_dec.device)
        codes = self.sae.encode(x)
        x_hat = self.sae.decode(codes)
        self.n_tokens += len(x)
        self.n_fired += (codes > 0).sum(0).double().cpu()
        self.activation += codes.sum(0, dtype=torch.float64).cpu()
        self.largest = torch.maximum(self.largest, codes.amax(0).double().cpu())
        self.x += x.sum(0, dtype=torch.float64).cpu()
        self.squares += float(x.double().pow(2).sum())
        self.error += float((x - x_hat).double().pow(2).sum())
        self.norm += float(x.norm(dim=1).double().sum())
        self.norm_hat += float(x_hat.norm(dim=1).double().sum())

    def evaluation(self) -> Evaluation:
        n = self.n_tokens
        variation = self.squares - float(self.x.pow(2).sum()) / n
        if not variation > 0:
            raise ValueError(f"the {n:,} held-out activations do not vary: no variance to explain; check the hook")
        alive = self.n_fired > 0
        frequency = self.n_fired / n
        n_alive = int(alive.sum())
        summary = EvaluationSummary(
            n_tokens=n,
            d_sae=self.sae.d_sae,
            l0=float(self.n_fired.sum()) / n,
            fve=1 - self.error / variation,
            n_alive=n_alive,
            dead_fraction=1 - n_alive / self.sae.d_sae,
            n_dense=int((frequency > 0.1).sum()),
            mean_squared_norm=self.squares / n,
            reconstruction_norm_ratio=self.norm_hat / self.norm,
        )
        mean = (self.activation / self.n_fired.clamp_min(1)).numpy()
        columns = {
            "feature_id": pa.array(range(self.sae.d_sae), pa.int64()),
            "n_fired": pa.array(self.n_fired.long().numpy()),
            "frequency": pa.array(frequency.numpy()),
            "mean_activation": pa.array(mean, mask=(~alive).numpy()),
            "max_activation": pa.array(self.largest.numpy()),
        }
        return Evaluation(summary, pa.table(columns))


@runtime_checkable
class PatchableModel(Protocol):
    """What ``loss_recovered`` needs of a ``LanguageModel``."""

    special_token_ids: frozenset[int]

    def token_losses(
        self, token_ids: Int[Tensor, "b l"], hook: str | None = None, replace: Callable[[Tensor], Tensor] | None = None
    ) -> Float[Tensor, "b l-1"]:
        """Next-token cross-entropy in nats, with the output of the hook replaced."""
        ...


def trained_positions(
    token_ids: Int[Tensor, "b l"],
    special_token_ids: frozenset[int],
    keep_first_position: bool = False,
    keep_special_tokens: bool = False,
) -> Bool[Tensor, "b l"]:
    """Which positions an SAE was trained on: not the first of a context nor special tokens, unless kept."""
    kept = torch.ones_like(token_ids, dtype=torch.bool)
    if not keep_first_position:
        kept[:, 0] = False
    if not keep_special_tokens:
        kept &= ~torch.isin(token_ids, torch.tensor(sorted(special_token_ids), dtype=token_ids.dtype))
    return kept


@torch.no_grad()
def loss_recovered(
    sae: Sae,
    model: PatchableModel,
    token_ids: Int[Tensor, "n l"],
    hook: str,
    keep: Bool[Tensor, "n l"] | None = None,
    batch_contexts: int = 8,
    progress: Progress = silent,
) -> LossRecovered:
    """The model's next-token loss with an SAE's reconstructions in place of the activations at a hook.

    Args:
        keep: positions to patch; the others keep their activations. None: those of ``trained_positions``.

    Raises:
        ValueError: if there is no context, or no position to patch.
    """
    if keep is None:
        keep = trained_positions(token_ids, model.special_token_ids)
    if keep.shape != token_ids.shape or not keep.any():
        raise ValueError(f"no position to patch in token_ids of shape {tuple(token_ids.shape)}; give more contexts")
    sums = torch.zeros(3, dtype=torch.float64)
    n_tokens = 0
    for first in range(0, len(token_ids), batch_contexts):
        tokens, here = token_ids[first : first + batch_contexts], keep[first : first + batch_contexts, :, None]

        def patched(x: Tensor, here: Tensor = here) -> Tensor:
            device = sae.W_dec.device
            return torch.where(here.to(x.device), sae(x.to(device, torch.float32)).to(x.device, x.dtype), x)

        def zero(x: Tensor, here: Tensor = here) -> Tensor:
            return torch.where(here.to(x.device), torch.zeros_like(x), x)

        losses = (
            model.token_losses(tokens),
            model.token_losses(tokens, hook, patched),
            model.token_losses(tokens, hook, zero),
        )
        sums += torch.stack([loss.double().sum().cpu() for loss in losses])
        n_tokens += losses[0].numel()
        progress(min(first + batch_contexts, len(token_ids)), len(token_ids), f"{n_tokens:,} predictions")
    clean, with_sae, without = (sums / n_tokens).tolist()
    return LossRecovered(ce_clean=clean, ce_patched=with_sae, ce_zero=without, n_tokens=n_tokens)


def write_evaluation(folder: Path, evaluation: Evaluation, loss: LossRecovered | None = None) -> dict[str, Any]:
    """Write ``features.parquet`` and ``evaluation.json``; returns what the latter holds.

    It is the summary, and of the language model's loss ``loss_recovered``, ``ce_clean``, ``ce_patched``, ``ce_zero``
    and ``n_loss_tokens`` (None without ``loss``).
    """
    summary: dict[str, Any] = evaluation.summary.model_dump(mode="json")
    summary["loss_recovered"] = loss.recovered if loss else None
    for name in ("ce_clean", "ce_patched", "ce_zero"):
        summary[name] = getattr(loss, name) if loss else None
    summary["n_loss_tokens"] = loss.n_tokens if loss else None
    writers: dict[str, Callable[[Path], Any]] = {
        "features.parquet": lambda part: pq.write_table(evaluation.features, part),
        "evaluation.json": lambda part: part.write_text(json.dumps(summary, indent=1, sort_keys=True)),
    }
    for name, write in writers.items():
        part = folder / (name + ".part")
        write(part)
        os.replace(part, folder / name)
    return summary
