"""PW-MCC over training: whether runs grow alike, from the checkpoints they kept.

Part of *consistency*. At step 0 independent runs are at chance; more than that means that they share an
initialisation.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from sae_core.consistency.nulls import mean_null_mcc
from sae_core.consistency.statistics import jackknife, pair_mean
from sae_core.formats import load_dictionary
from sae_core.matching import match
from sae_core.progress import Progress, silent

OVER_TRAINING_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("pw_mcc", pa.float64(), nullable=False),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("null_isotropic", pa.float64(), nullable=False),
    ]
)


def checkpoint_folders(sae_folder: Path) -> dict[int, Path]:
    """Checkpoints that a training run kept, by step: the folders ``checkpoints/step_<n>``; empty if there are none."""
    found = {int(path.name.removeprefix("step_")): path for path in sae_folder.glob("checkpoints/step_*")}
    return dict(sorted(found.items()))


def over_training(
    runs: Mapping[str, Mapping[int, Path]], tokens_per_step: int, seed: int = 0, progress: Progress = silent
) -> pa.Table | None:
    """PW-MCC of the runs' decoders (absolute cosine, all features) after each step that all runs kept.

    Args:
        runs: for each run the folder of its SAE by step.
        tokens_per_step: batch size, for the column ``n_tokens``.
        seed: of the simulated null of small dictionaries.

    Returns:
        One row a step, ascending: ``step``, ``n_tokens``, ``pw_mcc``, its jackknife interval over runs (null for two
        runs), and the chance level of uniformly random directions. None when the runs have no step in common.

    Raises:
        ValueError: for fewer than two runs, and as :func:`sae_core.matching.match` does.
    """
    if len(runs) < 2:
        raise ValueError(f"PW-MCC compares runs: at least two are needed, got {len(runs)}; train another seed")
    steps = sorted(set.intersection(*(set(folders) for folders in runs.values())))
    if not steps:
        return None
    rows = []
    for number, step in enumerate(steps):
        progress(number, len(steps), f"consistency after step {step:,}")
        decoders = [load_dictionary(folders[step]).W_dec for folders in runs.values()]
        values = _pair_values(decoders, [f"{name} after step {step}" for name in runs])
        interval, sizes = jackknife(values), list(combinations([len(W) for W in decoders], 2))
        rows.append(
            {
                "step": step,
                "n_tokens": step * tokens_per_step,
                "pw_mcc": pair_mean(values),
                "ci_low": interval.low if interval else None,
                "ci_high": interval.high if interval else None,
                "null_isotropic": mean_null_mcc(sizes, decoders[0].shape[1], seed),
            }
        )
    progress(len(steps), len(steps), f"{len(steps)} checkpoints compared")
    return pa.Table.from_pylist(rows, schema=OVER_TRAINING_SCHEMA)


def _pair_values(
    decoders: Sequence[Float[np.ndarray, "n d_in"]], names: Sequence[str]
) -> Float[np.ndarray, "runs others"]:
    values = np.full((len(decoders), len(decoders)), np.nan)
    for i, j in combinations(range(len(decoders)), 2):
        values[i, j] = values[j, i] = match(decoders[i], decoders[j], names=(names[i], names[j])).mcc
    return values
