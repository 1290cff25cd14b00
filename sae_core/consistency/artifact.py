"""All files of a *consistency* artifact, from the folders of the runs."""

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.config import ConsistencyConfig
from sae_core.consistency.activation_matching import ActivationAgreement, activation_agreement, decoder_candidates
from sae_core.consistency.compare_runs import consistency, write_consistency
from sae_core.consistency.consensus_sae import consensus_sae
from sae_core.consistency.correlations import correlations, jaccard
from sae_core.consistency.over_training import over_training
from sae_core.consistency.results import ConsistencyReport
from sae_core.consistency.run_files import read_run, steps_kept
from sae_core.consistency.runs import Run
from sae_core.consistency.sparse_codes import SparseCodes, held_out_codes
from sae_core.formats import load_sae, save_sae
from sae_core.progress import Progress, silent
from sae_core.shards import open_shards

Folders = Mapping[str, tuple[Path, Path]]
"""Of each run by its name: the folder of its SAE and that of its evaluation."""


def build_consistency(
    folder: Path, runs: Folders, held_out: Path, config: ConsistencyConfig, progress: Progress = silent
) -> dict[str, Any]:
    """Compare the runs and write what was found.

    Beside what :func:`sae_core.consistency.write_consistency` writes: ``activations.parquet`` and ``activations.json``
    (whether matched features fire alike on held-out tokens), ``over_training.parquet`` (where runs kept checkpoints),
    and the consensus as an SAE in ``consensus/`` (where at least two features are common).

    Args:
        held_out: shards of held-out activations.

    Returns:
        What ``summary.json`` holds, and the means of what activations say.
    """
    read = [read_run(name, *folders) for name, folders in runs.items()]
    report = consistency(read, config, progress)
    summary = write_consistency(folder, report)
    if config.n_activation_tokens:
        summary |= _write_activations(folder, read, runs, report, held_out, config, progress)
    _write_over_training(folder, runs, config, progress)
    if report.consensus is not None and report.consensus.n_features >= 2:
        saes = [load_sae(sae) for sae, _ in runs.values()]
        save_sae(consensus_sae(saes, report.consensus), folder / "consensus", {"runs": list(runs)})
    return summary


def _write_over_training(folder: Path, runs: Folders, config: ConsistencyConfig, progress: Progress) -> None:
    kept = {name: steps_kept(sae) for name, (sae, _) in runs.items()}
    found = {name: steps for name, steps in kept.items() if steps is not None}
    if len(found) < len(kept):
        return
    tokens = {n_tokens for _, n_tokens in found.values()}
    assert len(tokens) == 1  # runs of a variant share their training settings
    table = over_training({name: steps for name, (steps, _) in found.items()}, tokens.pop(), config.seed, progress)
    if table is not None:
        pq.write_table(table, folder / "over_training.parquet")


def _write_activations(
    folder: Path,
    read: list[Run],
    runs: Folders,
    report: ConsistencyReport,
    held_out: Path,
    config: ConsistencyConfig,
    progress: Progress,
) -> dict[str, Any]:
    shards, n_tokens = open_shards(held_out), config.n_activation_tokens
    codes = {name: held_out_codes(name, load_sae(sae), shards, n_tokens, progress) for name, (sae, _) in runs.items()}
    tables, found = [], []
    for a, b in combinations(read, 2):
        matched = report.matches_of(a.name, b.name)
        left, right = (matched[name].to_numpy() for name in ("feature_a", "feature_b"))
        agreement = activation_agreement(
            codes[a.name],
            codes[b.name],
            left,
            right,
            decoder_candidates(a.W_dec, b.W_dec),
            time_budget_s=config.time_budget_s,
            progress=progress,
        )
        found.append({"run_a": a.name, "run_b": b.name} | agreement.model_dump(mode="json"))
        tables.append(_pair_table(matched, codes[a.name], codes[b.name]))
    pq.write_table(pa.concat_tables(tables), folder / "activations.parquet")
    (folder / "activations.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return {f"activations/{name}": _mean([row[name] for row in found]) for name in _MEANS}


_MEANS = ("mean_correlation", "mean_jaccard", "share_partner_best", "pw_mcc_activations", "share_same_partner")
assert set(_MEANS) <= set(ActivationAgreement.model_fields)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _pair_table(matched: pa.Table, a: SparseCodes, b: SparseCodes) -> pa.Table:
    left, right = (matched[name].to_numpy() for name in ("feature_a", "feature_b"))
    table = matched.select(["run_a", "run_b", "feature_a", "feature_b", "cosine"])
    r, together = correlations(a, b, left, right), jaccard(a, b, left, right)
    table = table.append_column("correlation", pa.array(r, pa.float64(), from_pandas=True))  # nan is missing
    return table.append_column("jaccard", pa.array(together, pa.float64(), from_pandas=True))
