"""How far independently trained runs of one variant found the same features: everything put together.

The decoders of all seeds are matched pair by pair, set beside what chance would score, and given an interval over
seeds; then comes what concerns all runs at once. The matches go on to the comparison of explanations.
"""

import json
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from sae_core.config import ConsistencyConfig
from sae_core.consistency.consensus_dictionary import Consensus, consensus
from sae_core.consistency.consensus_summary import consensus_summary, consensus_table
from sae_core.consistency.core_sizes import core_curve, core_summary
from sae_core.consistency.group_comparison import disjoint_groups
from sae_core.consistency.initialisation import check_initialisation
from sae_core.consistency.pairs import Distinct, RunPair, compare_pair, find_distinct, n_steps
from sae_core.consistency.results import ConsistencyReport
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import StableCore, cycle_consistency, stable_core
from sae_core.consistency.summarise import Beyond, summarise
from sae_core.consistency.tables import feature_table, match_table, pair_table
from sae_core.matching import Matching, match
from sae_core.progress import Progress, silent
from sae_core.whole_files import write_whole

CURVE_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(6, 20))
"""Absolute cosines, .3 to .95, at which the size of the stable core is drawn, beside those of the config."""


def pw_mcc(dictionaries: Sequence[Float[Tensor | np.ndarray, "_ _"]], signed: bool = False) -> float:
    """Mean MCC over all unordered pairs of dictionaries, in [0, 1] (Song et al. 2025, eq. 3).

    MCC is the mean absolute cosine under the best one-to-one matching of rows. Rows of zeros are left out.

    Args:
        dictionaries: decoders, one feature a row, all of the same width.
        signed: use the cosine itself, as the paper's released code does; then in [-1, 1].

    Raises:
        ValueError: for fewer than two dictionaries, different widths, or a row that is not finite; the message names
            the run (by its place in the sequence) and the row.
    """
    if len(dictionaries) < 2:
        raise ValueError(f"PW-MCC compares runs: at least two are needed, got {len(dictionaries)}; train another seed")
    named = [(f"run {number}", W) for number, W in enumerate(dictionaries)]
    return float(np.mean([match(a, b, signed, names=(x, y)).mcc for (x, a), (y, b) in combinations(named, 2)]))


def consistency(
    runs: Sequence[Run], config: ConsistencyConfig | None = None, progress: Progress = silent
) -> ConsistencyReport:
    """Compare all pairs of runs, and all runs together.

    Of pairs: PW-MCC with its variants, chance levels, interval, histogram, frequencies. Of all: whether they share an
    initialisation, the stable core, the consensus. What a run does not bring (frequencies, an encoder, the decoder at
    step 0) or the config switches off is None in the summary, with its reason.

    Args:
        runs: at least two, of the same ``d_in``; they may have different numbers of features.
        config: what is measured, thresholds, draws and seed of the nulls; None takes the defaults.
        progress: called before every matching.

    Raises:
        ValueError: for fewer than two runs, names given twice, different widths, or a row that is not finite (the
            message names run and row).
    """
    config = config or ConsistencyConfig()
    _check_runs(runs)
    indices = list(combinations(range(len(runs)), 2))
    steps = _Steps(progress, runs, config)
    distinct = _distinct(runs, config, steps) if config.merged else None
    pairs = []
    for number, (a, b) in enumerate(indices):

        def step(what: str, a: int = a, b: int = b) -> Progress:
            return steps.begin(f"{runs[a].name} and {runs[b].name}: {what}")

        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        pairs.append(compare_pair(runs, a, b, seed, config, distinct, step))
    duplicates = None if distinct is None else [found.duplicates for found in distinct]
    beyond, cores, curve, common = _beyond_pairs(runs, pairs, config, steps)
    steps.end(f"{len(indices)} {'pair' if len(indices) == 1 else 'pairs'} of runs compared")
    at_threshold = {core.tau: core for core in cores}
    return ConsistencyReport(
        summary=summarise(runs, pairs, duplicates, beyond, config),
        pairs=pair_table(runs, pairs),
        matches=match_table(runs, pairs),
        features=feature_table(runs, pairs, config.thresholds, duplicates, at_threshold.get(config.core_threshold)),
        core_curve=curve,
        consensus=common,
    )


def write_consistency(folder: Path, report: ConsistencyReport) -> dict[str, Any]:
    """Write a report into a folder.

    ``summary.json``, ``pairs.parquet``, ``matches.parquet``, ``features.parquet``, and, where they were measured,
    ``core_curve.parquet`` and ``consensus/consensus.parquet``. (An SAE of the consensus needs those of the runs:
    :func:`sae_core.consensus_sae.consensus_sae`.)

    Returns:
        What ``summary.json`` holds.
    """
    tables: dict[str, pa.Table] = {"pairs": report.pairs, "matches": report.matches, "features": report.features}
    if report.core_curve is not None:
        tables["core_curve"] = report.core_curve
    if report.consensus is not None:
        tables["consensus/consensus"] = consensus_table(report.consensus)
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(pq.write_table, table))
    summary = report.summary.model_dump(mode="json")
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "summary.json", lambda part: part.write_text(text, encoding="utf-8"))
    return summary


def _check_runs(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise ValueError(f"consistency compares runs: at least two are needed, got {len(runs)}; train another seed")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"run names must differ: {', '.join(twice)} given more than once; rename one")
    widths = [run.W_dec.shape[1] for run in runs]
    for run, width in zip(runs, widths, strict=True):
        if width != widths[0]:
            raise ValueError(
                f"dictionaries must have the same d_in: {runs[0].name} has {widths[0]}, {run.name} has {width}; "
                "compare runs that were trained on the same activations"
            )


class _Steps:
    """Counts what has been begun of all that there is to do."""

    def __init__(self, progress: Progress, runs: Sequence[Run], config: ConsistencyConfig):
        self._progress, self._n_begun = progress, 0
        of_pairs = sum(n_steps(left, right, config) for left, right in combinations(runs, 2))
        self._n = of_pairs + len(runs) * config.merged + 1 + config.core + 2 * config.consensus

    def begin(self, text: str) -> Progress:
        """Announce a step; what it returns reports from inside the step."""
        done = self._n_begun
        self._n_begun += 1
        self._progress(done, self._n, text)
        return lambda _done, _total, inside: self._progress(done, self._n, f"{text}: {inside}")

    def end(self, text: str) -> None:
        """Everything is done."""
        self._progress(self._n, self._n, text)


def _distinct(runs: Sequence[Run], config: ConsistencyConfig, steps: _Steps) -> list[Distinct]:
    found = []
    for run in runs:
        steps.begin(f"{run.name}: looking for duplicates")
        found.append(find_distinct(run, config.duplicate_threshold))
    return found


def _beyond_pairs(
    runs: Sequence[Run], pairs: Sequence[RunPair], config: ConsistencyConfig, steps: _Steps
) -> tuple[Beyond, list[StableCore], pa.Table | None, Consensus | None]:
    """What concerns all runs together."""
    matchings: dict[tuple[int, int], Matching] = {(pair.a, pair.b): pair.absolute for pair in pairs}
    inside = steps.begin("whether the runs share an initialisation")
    initialisation = check_initialisation(runs, matchings, config.seed, config.time_budget_s, inside)
    cores, curve, common, groups = [], None, None, None
    if config.core:
        inside = steps.begin("stable core")
        taus = sorted({*config.thresholds, config.core_threshold})
        cores = [stable_core(runs, matchings, tau) for tau in taus]
        n_draws = None if config.n_null_draws else 0
        finer = sorted({*taus, *CURVE_THRESHOLDS})
        curve = core_curve(runs, matchings, finer, n_chance_draws=n_draws, seed=config.seed, progress=inside)
    if config.consensus:
        common = consensus(
            runs,
            matchings,
            config.core_threshold,
            time_budget_s=config.time_budget_s,
            progress=steps.begin("consensus"),
        )
        inside = steps.begin("consensuses of disjoint groups of runs")
        if config.n_group_splits:
            groups = disjoint_groups(
                runs,
                matchings,
                config.core_threshold,
                n_splits=config.n_group_splits,
                seed=config.seed,
                time_budget_s=config.time_budget_s,
                progress=inside,
            )
    reason = None if config.n_group_splits else "switched off (n_group_splits: 0)"
    beyond = Beyond(
        initialisation=initialisation,
        cycle_consistency=cycle_consistency(matchings, len(runs)),
        core=core_summary(cores, curve) if cores else None,
        consensus=None if common is None else consensus_summary(common, groups, reason),
    )
    return beyond, cores, None if curve is None else curve.table(), common
