"""Several runs in one pass over the data, each to the same bits as alone. Part of the training stage.

What is saved is reading: a batch is gathered once for all runs that see it. The weights, gradients and moments of all
of them are in memory at once, four times the size of an SAE each.
"""

from collections.abc import Sequence

from sae_core.config import LearningRate, TrainingConfig
from sae_core.progress import Progress, silent
from sae_core.training.loop import Batches, advance_all
from sae_core.training.run import DivergedError, Job, Run, Settings, TrainingResult
from sae_core.training.schedules import learning_rate


def train_together(
    jobs: Sequence[Job],
    batches: Batches,
    config: TrainingConfig,
    *,
    lr: LearningRate | None = None,
    scale: float = 1.0,
    l2_coefficient: float = 0.0,
    aligned: bool = False,
    reference: bool = False,
    progress: Progress = silent,
) -> list[TrainingResult | DivergedError]:
    """Train SAEs in place on the same batches in the same order, as ``train`` does one.

    Args:
        jobs: the SAEs, each with what belongs to it alone; each resumes from its own state, and batches are read from
            the earliest one on.
        batches, config, lr, scale, l2_coefficient, aligned, reference: as for ``train``.

    Returns:
        For each job its result, or the error of the one that diverged: that one stops, the others go on.

    Raises:
        ValueError: as ``train``; all runs stop.
    """
    runs = []
    for job in jobs:
        rate = learning_rate(config.lr if lr is None else lr, job.sae.d_sae)
        runs.append(Run(job, Settings(config, rate, scale, l2_coefficient, aligned, reference)))
    diverged = advance_all(runs, batches, config, progress) if runs else {}
    return [diverged[place] if place in diverged else run.finish() for place, run in enumerate(runs)]
