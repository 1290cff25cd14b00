"""How good one SAE is, on held-out tokens: L0, FVE, dead features, frequencies, and the language model's loss.

After ``training``; ``consistency`` and ``explanations`` use the frequencies, ``report`` the numbers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import EvaluationConfig, Result
from sae_core.loss_recovered import LossRecovered
from sae_core.progress import Progress, silent
from sae_core.shards import Shards
from sae_core.whole_files import write_whole

BATCH_TOKENS = 4096
"""Tokens encoded at once; only memory and speed depend on it."""


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
        x_hat = self.sae.decode(codes, x)
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
        write_whole(folder / name, write)
    return summary
