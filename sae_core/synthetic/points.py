"""One point of a synthetic study: SAEs trained under all seeds, everything that is measured, one folder.

``saes/seed_<n>`` hold the SAEs in the SAELens layout, ``truth.safetensors`` the true dictionary (``concord compare``
takes both as they are), ``samples.safetensors`` the measured frequency of its features and the bias; ``consistency/``
is what *consistency* writes, ``recovery.parquet`` has a row a feature of an SAE, and ``summary.json`` is a
``PointSummary``. Last module of the *synthetic* stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors.numpy import save_file

from sae_core.architectures import Sae
from sae_core.config import ConsistencyConfig
from sae_core.consistency import ConsistencySummary, Run, consensus, consistency, pw_mcc, write_consistency
from sae_core.consistency.mutual_neighbours import Matchings
from sae_core.formats import save_sae
from sae_core.matching import match
from sae_core.progress import Progress, silent
from sae_core.synthetic.data import Draw, SyntheticData
from sae_core.synthetic.feature_groups import feature_groups
from sae_core.synthetic.premises import premises
from sae_core.synthetic.recovery import Recovered, recover, seed_correlation
from sae_core.synthetic.results import (
    CHANCE_KAPPA,
    Ceiling,
    DynamicsPoint,
    PointSummary,
    Premises,
    Quality,
    Recovery,
    Summaries,
)
from sae_core.synthetic.run_summaries import pair_values, what_recovers
from sae_core.synthetic.runs import TrainedRuns, train_point
from sae_core.synthetic.seed_counts import over_seed_counts
from sae_core.synthetic_config import MeasuresConfig, PointConfig
from sae_core.whole_files import write_whole

RECOVERED = 0.9
"""Cosine from which a true feature counts as recovered where runs and their consensus are compared."""
_CEILING_RUNS = 3
_ENCODED_AT_ONCE = 4096
_DYNAMICS_SAMPLES = 2048
_ROUND_TRIP_CODES = 2000
# Seeds of streams that no SAE is trained on: training streams have the numbers of the seeds.
_EVALUATION_STREAM, _CODES_STREAM = 1 << 40, 1 << 41


def build_point(folder: Path, point: PointConfig, progress: Progress = silent) -> dict[str, Any]:
    """Train, measure, write; returns a few numbers of the summary.

    Raises:
        ValueError: if the data cannot be made or an SAE diverges.
    """
    data = SyntheticData(point.data)
    shares, n_steps = point.measures.checkpoints, point.recipe.n_steps
    keep_after = sorted({round(share * n_steps) for share in shares})
    trained = train_point(point, data, point.seeds, keep_after=keep_after, progress=progress)
    ceiling = _train_ceiling(point, data, progress) if point.measures.ceiling else None
    progress(n_steps, n_steps, "measuring")
    samples = data.draw(point.measures.n_eval_samples, _EVALUATION_STREAM + point.measures.seed)
    summary, recovered = _measure(point, data, samples, trained, ceiling, folder)
    _write(folder, point, data, samples, trained, recovered)
    text = summary.model_dump_json(indent=1) + "\n"
    write_whole(folder / "summary.json", lambda part: part.write_text(text, encoding="utf-8"))
    return {
        "gt_mcc": summary.recovery.gt_mcc,
        "pw_mcc": summary.consistency.pw_mcc,
        "fvu": summary.quality.fvu,
        "l0": summary.quality.l0,
        "n_runs": len(point.seeds),
        "training_seconds": round(trained.seconds, 3),
    }


def _train_ceiling(point: PointConfig, data: SyntheticData, progress: Progress) -> TrainedRuns:
    alike = point.variant.d_sae == point.data.d_gt and point.recipe.vary == "init"
    seeds = point.seeds[: 1 if alike else _CEILING_RUNS]
    return train_point(point, data, seeds, from_truth=True, progress=progress)


@dataclass(frozen=True)
class _Measured:
    """What one SAE is worth on the samples."""

    fvu: float
    l0: float
    frequency: Float[np.ndarray, " d_sae"]


@torch.no_grad()
def _evaluate(sae: Sae, x: torch.Tensor) -> _Measured:
    squared, fired = 0.0, torch.zeros(sae.d_sae, dtype=torch.int64)
    for part in torch.split(x, _ENCODED_AT_ONCE):
        codes = sae.encode(part)
        squared += float((sae.decode(codes, part) - part).double().pow(2).sum())
        fired += (codes > 0).sum(0)
    variance = float((x.double() - x.double().mean(0)).pow(2).sum())
    return _Measured(squared / variance, float(fired.sum()) / len(x), (fired.double() / len(x)).numpy())


def _measure(
    point: PointConfig,
    data: SyntheticData,
    samples: Draw,
    trained: TrainedRuns,
    ceiling: TrainedRuns | None,
    folder: Path,
) -> tuple[PointSummary, Recovered]:
    measures, truth = point.measures, data.dictionary.numpy()
    found = [_evaluate(sae, samples.x) for sae in trained.saes]
    runs = [
        Run(f"seed {seed}", sae.W_dec.numpy(), one.frequency, sae.W_enc.numpy(), initial)
        for seed, sae, one, initial in zip(point.seeds, trained.saes, found, trained.initial, strict=True)
    ]
    report = consistency(runs, _consistency_config(measures))
    write_consistency(_made(folder / "consistency"), report)
    recovered = recover(runs, truth, measures)
    matchings = {(a, b): match(runs[a].W_dec, runs[b].W_dec) for a, b in combinations(range(len(runs)), 2)}
    of_truth, chance_like = recovered.matchings, _chance_like(report.summary, recovered.summary)
    groups, capacity = None, None
    if measures.groups:
        groups, capacity = feature_groups(of_truth, samples.counts().numpy() / len(samples.x), measures.groups)
    gt, pw = recovered.summary, report.summary
    summary = PointSummary(
        config=point,
        recovery=gt,
        consistency=pw,
        quality=_quality(found, len(samples.x)),
        ceiling=None if ceiling is None else _ceiling(ceiling, truth, samples),
        seed_correlation=seed_correlation(pair_values(matchings, len(runs)), np.array(gt.gt_mcc_by_run)),
        summaries=_summaries(runs, matchings, truth, recovered, measures),
        groups=groups,
        capacity=capacity,
        dynamics=_dynamics(trained, truth, samples) if trained.kept else None,
        seed_counts=over_seed_counts(runs, matchings, truth, of_truth, measures.seed_counts, RECOVERED)
        if measures.seed_counts
        else None,
        premises=_premises(point, data, trained) if measures.round_trip else None,
        chance_like=chance_like,
        consistent_but_wrong=pw.ci_low is not None and pw.ci_low > gt.gt_ci_high,
    )
    return summary, recovered


def _consistency_config(measures: MeasuresConfig) -> ConsistencyConfig:
    """What costs little; the consensus is measured against the truth instead of against another group of seeds."""
    return ConsistencyConfig(
        thresholds=measures.thresholds,
        n_null_draws=measures.n_null_draws,
        signed=False,
        joint=False,
        core=False,
        consensus=False,
        n_frequency_bins=measures.n_frequency_bins,
        seed=measures.seed,
    )


def _quality(found: Sequence[_Measured], n_samples: int) -> Quality:
    return Quality(
        fvu=float(np.mean([one.fvu for one in found])),
        fvu_by_run=[one.fvu for one in found],
        l0=float(np.mean([one.l0 for one in found])),
        dead_fraction=float(np.mean([(one.frequency == 0).mean() for one in found])),
        n_samples=n_samples,
    )


def _ceiling(trained: TrainedRuns, truth: Float[np.ndarray, "d_gt d_in"], samples: Draw) -> Ceiling:
    decoders = [sae.W_dec.numpy() for sae in trained.saes]
    return Ceiling(
        n_runs=len(decoders),
        gt_mcc=float(np.mean([match(W_dec, truth).mcc for W_dec in decoders])),
        gt_mcc_start=float(np.mean([match(W_dec, truth).mcc for W_dec in trained.initial])),
        fvu=float(np.mean([_evaluate(sae, samples.x).fvu for sae in trained.saes])),
        pw_mcc=pw_mcc(decoders) if len(decoders) > 1 else None,
    )


def _summaries(
    runs: Sequence[Run], matchings: Matchings, truth: np.ndarray, recovered: Recovered, measures: MeasuresConfig
) -> Summaries | None:
    if not measures.consensus:
        return None
    common = consensus(runs, matchings)
    return what_recovers(runs, matchings, truth, recovered.matchings, common, RECOVERED)


def _dynamics(trained: TrainedRuns, truth: Float[np.ndarray, "d_gt d_in"], samples: Draw) -> list[DynamicsPoint]:
    found, x = [], samples.x[:_DYNAMICS_SAMPLES]
    for step, saes in sorted(trained.kept.items()):
        decoders = [sae.W_dec.numpy() for sae in saes]
        found.append(
            DynamicsPoint(
                step=step,
                pw_mcc=pw_mcc(decoders),
                gt_mcc=float(np.mean([match(W_dec, truth).mcc for W_dec in decoders])),
                fvu=float(np.mean([_evaluate(sae, x).fvu for sae in saes])),
            )
        )
    return found


def _premises(point: PointConfig, data: SyntheticData, trained: TrainedRuns) -> Premises:
    config = point.data

    def values(n: int, seed: int) -> Float[np.ndarray, "n k"]:
        parts: list[np.ndarray] = []  # where k is a mean, n samples may hold fewer values than n * k
        while sum(len(part) for part in parts) < n * config.k:
            parts.append(data.draw(n, _CODES_STREAM + seed, n * len(parts)).value.numpy())
        return np.concatenate(parts)[: n * config.k].reshape(n, config.k)

    return premises(data.dictionary.numpy(), values, config.k, trained.saes, _ROUND_TRIP_CODES, point.measures.seed)


def _chance_like(pw: ConsistencySummary, gt: Recovery) -> list[str]:
    kappas = {
        "gt_mcc": (gt.kappa_isotropic, gt.kappa_sign_flip),
        "pw_mcc": (pw.kappa_isotropic, pw.kappa_sign_flip),
    }
    return [name for name, of in kappas.items() if any(kappa is not None and kappa < CHANCE_KAPPA for kappa in of)]


def _write(
    folder: Path,
    point: PointConfig,
    data: SyntheticData,
    samples: Draw,
    trained: TrainedRuns,
    recovered: Recovered,
) -> None:
    for seed, sae in zip(point.seeds, trained.saes, strict=True):
        save_sae(sae, folder / "saes" / f"seed_{seed}", {"synthetic_data": point.data.key, "init_seed": seed})
    files: dict[str, dict[str, np.ndarray]] = {
        "truth": {"W_dec": data.dictionary.numpy()},
        "samples": {"frequency": samples.counts().numpy() / len(samples.x), "bias": data.bias.numpy()},
    }
    for name, arrays in files.items():
        write_whole(folder / f"{name}.safetensors", partial(save_file, arrays))
    write_whole(folder / "recovery.parquet", partial(pq.write_table, recovered.table))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
