"""The files of SAE artifacts: activation shards in, weights, settings, curves and checkpoints out.

Part of the training stage. Activations are scaled to unit mean squared norm while training; that scale is folded into
the biases at the end and recorded.
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from sae_core.architectures import Sae, build
from sae_core.config import RunSeeds, SaeConfig, TrainingConfig
from sae_core.formats import save_sae
from sae_core.progress import Progress, silent
from sae_core.shards import Shards
from sae_core.store import require_free_space
from sae_core.training.curves import tokens_per_second, write_curves
from sae_core.training.data import TrainingData
from sae_core.training.observers import watching
from sae_core.training.run import DivergedError, Job, TrainingResult
from sae_core.training.schedules import checkpoint_steps
from sae_core.training.together import train_together

RESUME_FILE = "_resume.pt"
LAST_GOOD = "checkpoints/last_good"
"""The SAE of a run that diverged, as it was when its state was last saved."""

Summary = dict[str, Any]


def train_run(
    folder: Path,
    shards: Shards,
    variant: SaeConfig,
    training: TrainingConfig,
    seeds: RunSeeds,
    metadata: Mapping[str, Any],
    progress: Progress = silent,
    logs: Path | None = None,
) -> Summary:
    """Make the files of one SAE artifact: weights in the SAELens layout, ``config.json``, curves, checkpoints.

    The SAE is trained on activations times ``activation_scale = 1 / sqrt(mean squared norm)`` and stored as it is used:
    for raw activations (biases are divided by that scale, weights stay; a whitening is folded in), and ``finished``, so
    a BatchTopK SAE is stored as a JumpReLU SAE. ``cfg.json`` says what it was trained as.

    Args:
        folder: keeps the state of a killed run, which goes on from there.
        shards: the training split.
        metadata: JSON values for ``cfg.json``, for example ``model_name`` and ``hook_name``.
        logs: where what ``training.watch`` names is written to; None takes ``_watch`` in the folder.

    Returns:
        The last point of the curves, and what was trained on.

    Raises:
        DivergedError: if the loss or the gradient is not finite. The last good SAE is kept in
            ``<folder>/checkpoints/last_good`` and its state in the folder, until the folder is deleted or the same
            run succeeds in it; the message has the path.
        ValueError: as ``train`` and ``build``; also if the activations are all zero or too few.
    """
    return train_runs({seeds: folder}, shards, variant, training, metadata, progress, logs)[seeds]()


def train_runs(
    folders: Mapping[RunSeeds, Path],
    shards: Shards,
    variant: SaeConfig,
    training: TrainingConfig,
    metadata: Mapping[str, Any],
    progress: Progress = silent,
    logs: Path | None = None,
) -> dict[RunSeeds, Callable[[], Summary]]:
    """Train runs of one variant; those that see the same contexts in the same order in one pass over the data.

    Args:
        folders: of each run, by its seeds.
        shards, variant, training, metadata, progress, logs: as for ``train_run``.

    Returns:
        For each run a function that writes its files and returns its summary, as ``train_run`` does, or raises the
        error of a run that diverged.
    """
    ends: dict[RunSeeds, Callable[[], Summary]] = {}
    for data_seed, of_data in groupby(sorted(folders, key=_by_data), key=lambda seeds: seeds.data_seed):
        data = TrainingData(shards, variant, training, data_seed, folders.values())
        for order_seed, group in groupby(of_data, key=lambda seeds: seeds.order_seed):
            runs = [_RunFiles(folders[seeds], variant, data, seeds, metadata) for seeds in group]
            with ExitStack() as stack:
                outcomes = train_together(
                    [run.job(stack, training, logs) for run in runs],
                    partial(data.batches, order_seed),
                    data.config,
                    lr=variant.lr,
                    scale=data.scale,
                    l2_coefficient=variant.l2_coefficient,
                    aligned=variant.aligned,
                    progress=progress,
                )
            ends |= {run.seeds: partial(run.finish, outcome) for run, outcome in zip(runs, outcomes, strict=True)}
    return ends


def _by_data(seeds: RunSeeds) -> tuple[int, int, int]:
    return seeds.data_seed, seeds.order_seed, seeds.init_seed


class _RunFiles:
    """The folder of one run."""

    def __init__(
        self, folder: Path, variant: SaeConfig, data: TrainingData, seeds: RunSeeds, metadata: Mapping[str, Any]
    ):
        self.folder, self.variant, self.data, self.seeds = folder, variant, data, seeds
        trained_as = variant.model_dump()["architecture"]
        self.metadata = {**metadata, "activation_scale": data.scale, "trained_as": trained_as}
        if data.whitening:
            self.metadata["whitened"] = True
            data.whitening.write(folder)

    def job(self, stack: ExitStack, training: TrainingConfig, logs: Path | None) -> Job:
        """The run from its first step on, or from where it was killed."""
        sae = build(self.variant, self.data.d_in, self.seeds.init_seed)
        n_bytes = sum(parameter.numel() * parameter.element_size() for parameter in sae.parameters())
        # The SAE and its checkpoints; weights and two moments twice, since a state replaces the one before.
        n_saes = 1 + len(checkpoint_steps(self.data.config)) + 6
        require_free_space(self.folder, n_saes * n_bytes, f"training {self.variant.key}, with checkpoints and states,")
        name = "-".join(str(seed) for seed in (self.seeds.init_seed, self.seeds.order_seed, self.seeds.data_seed))
        observer = stack.enter_context(
            watching(
                training.watch,
                logs or self.folder / "_watch",
                f"{self.variant.key}/seeds-{name}-{self.folder.name[:8]}",
                self._settings(),
            )
        )
        return Job(sae, self.seeds.init_seed, observer, self.folder / RESUME_FILE, self._keep)

    def finish(self, outcome: TrainingResult | DivergedError) -> Summary:
        """Write all files, and remove what only a run that is not finished needs.

        Raises:
            DivergedError: in place of one that is given, with where the last good SAE is.
        """
        if isinstance(outcome, DivergedError):
            raise self._with_last_good(outcome) from outcome
        result = outcome
        save_sae(self.data.folded(result.sae), self.folder, self.metadata)
        told = {**self._settings(), "learning_rate": result.lr, "gradients": result.gradients}
        (self.folder / "config.json").write_text(json.dumps(told, indent=1, sort_keys=True))
        write_curves(self.folder, result, self.data.config.batch_size)
        shutil.rmtree(self.folder / LAST_GOOD, ignore_errors=True)
        for name in (RESUME_FILE, RESUME_FILE + ".part"):
            (self.folder / name).unlink(missing_ok=True)
        return {
            **result.watched[-1],
            **asdict(result.curve[-1]),
            "n_tokens": result.n_tokens,
            "n_epochs": result.n_tokens / self.data.n_tokens,
            "tokens_per_second": tokens_per_second(result),
            "activation_scale": self.data.scale,
            "learning_rate": result.lr,
            "gradients": result.gradients,
        }

    def _settings(self) -> dict[str, Any]:
        """Everything needed to train it again."""
        return {
            "variant": self.variant.model_dump(mode="json"),
            "training": self.data.config.decisive(),
            "seeds": self.seeds.model_dump(mode="json"),
            "d_in": self.data.d_in,
            "activation_scale": self.data.scale,
            "metadata": self.metadata,
        }

    def _keep(self, step: int, sae: Sae) -> None:
        self._save(sae, self.folder / "checkpoints" / f"step_{step}", self.metadata)

    def _save(self, sae: Any, folder: Path, metadata: Mapping[str, Any]) -> None:
        save_sae(self.data.folded(copy.deepcopy(sae).finished()), folder, metadata)

    def _with_last_good(self, error: DivergedError) -> DivergedError:
        path, state = self.folder / LAST_GOOD, self.folder / RESUME_FILE
        if not state.exists():
            return DivergedError(error.step, f"{error}. There is no good SAE to keep: it was the first step")
        saved = torch.load(state, map_location="cpu", weights_only=True)
        sae = build(self.variant, self.data.d_in, self.seeds.init_seed)
        sae.load_state_dict(saved["weights"])
        self._save(sae, path, {**self.metadata, "step": saved["step"]})
        return DivergedError(
            error.step,
            f"{error}. The SAE after {saved['step']} steps, the last one saved that was good, is in {path}, and its "
            f"state in {state}: with the same settings a run goes on from there and comes to the same end, with others "
            "it starts anew. Both stay until that run succeeds or the folder is deleted",
        )
