"""The files of one SAE artifact: activation shards in, weights, settings, curves and checkpoints out.

Part of the training stage. Activations are scaled to unit mean squared norm while training; that scale is folded into
the biases at the end and recorded.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.architectures import Sae, build
from sae_core.config import RunSeeds, SaeConfig, TrainingConfig
from sae_core.formats import save_sae
from sae_core.progress import Progress, silent
from sae_core.shards import Shards
from sae_core.training.loop import TrainingResult, train

RESUME_FILE = "_resume.pt"


def train_run(
    folder: Path,
    shards: Shards,
    variant: SaeConfig,
    training: TrainingConfig,
    seeds: RunSeeds,
    metadata: Mapping[str, Any],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the files of one SAE artifact: weights in the SAELens layout, ``config.json``, curves, checkpoints.

    The SAE is trained on activations times ``activation_scale = 1 / sqrt(mean squared norm)`` and stored for raw
    activations: biases are divided by that scale, weights stay. The scale is in ``cfg.json`` and ``config.json``.

    Args:
        folder: keeps the state of a killed run, which goes on from there.
        shards: the training split.
        metadata: JSON values for ``cfg.json``, for example ``model_name`` and ``hook_name``.

    Returns:
        The last point of the curves, and what was trained on.

    Raises:
        ValueError: as ``train`` and ``build``; also if the activations are all zero.
    """
    if not shards.mean_squared_norm > 0:
        raise ValueError(f"activations have mean squared norm {shards.mean_squared_norm}: nothing to learn from")
    scale = 1 / math.sqrt(shards.mean_squared_norm)
    metadata = {**metadata, "activation_scale": scale}

    def keep(step: int, sae: Sae) -> None:
        save_sae(copy.deepcopy(sae).fold_scale(scale), folder / "checkpoints" / f"step_{step}", metadata)

    result = train(
        build(variant, shards.d_in, seeds.init_seed),
        lambda start: shards.batches(training.batch_size, seeds.order_seed, start),
        training,
        lr=variant.lr,
        scale=scale,
        seed=seeds.init_seed,
        resume=folder / RESUME_FILE,
        on_checkpoint=keep,
        progress=progress,
    )
    save_sae(result.sae.fold_scale(scale), folder, metadata)
    config = {"variant": variant, "training": training, "seeds": seeds}
    text: dict[str, Any] = {name: value.model_dump(mode="json") for name, value in config.items()}
    text |= {"d_in": shards.d_in, "activation_scale": scale, "gradients": result.gradients, "metadata": metadata}
    (folder / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True))
    pq.write_table(pa.Table.from_pylist([asdict(point) for point in result.curve]), folder / "training.parquet")
    _write_timing(folder / "_timing.parquet", result, training.batch_size)
    (folder / RESUME_FILE).unlink(missing_ok=True)
    (folder / (RESUME_FILE + ".part")).unlink(missing_ok=True)
    return {
        **asdict(result.curve[-1]),
        "n_tokens": result.n_tokens,
        "n_epochs": result.n_tokens / shards.n_tokens,
        "activation_scale": scale,
        "gradients": result.gradients,
    }


def _write_timing(path: Path, result: TrainingResult, batch_size: int) -> None:
    steps = [point.step for point in result.curve]
    pairs = zip([0, *steps], steps, [0.0, *result.seconds], result.seconds, strict=False)
    rates = [(step - before) * batch_size / max(1e-9, now - then) for before, step, then, now in pairs]
    pq.write_table(pa.table({"step": steps, "seconds": result.seconds, "tokens_per_second": rates}), path)
