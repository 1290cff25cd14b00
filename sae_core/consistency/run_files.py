"""From the files of a trained SAE to what *consistency* compares."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float
from pydantic import TypeAdapter

from sae_core.architectures import build
from sae_core.config import RunSeeds, TrainedConfig
from sae_core.consistency.over_training import checkpoint_folders
from sae_core.consistency.runs import Run
from sae_core.formats import load_dictionary
from sae_core.training.whitening import read_whitening


def read_run(name: str, sae_folder: Path, evaluation_folder: Path) -> Run:
    """One run, from the folders of its SAE and of its evaluation.

    Raises:
        FileNotFoundError, ValueError: if a file is missing or not readable.
    """
    found = load_dictionary(sae_folder)
    return Run(
        name=name,
        W_dec=found.W_dec,
        W_enc=found.W_enc,
        frequency=pq.read_table(evaluation_folder / "features.parquet")["frequency"].to_numpy(),
        initial=initial_decoder(sae_folder),
    )


def initial_decoder(sae_folder: Path) -> Float[np.ndarray, "d_sae d_in"] | None:
    """``W_dec`` before the first step: the checkpoint of step 0, or made again from the settings and the seed.

    None for an SAE that was not trained here.
    """
    folders = checkpoint_folders(sae_folder)
    if 0 in folders:
        return load_dictionary(folders[0]).W_dec
    if not (sae_folder / "config.json").is_file():
        return None
    config = json.loads((sae_folder / "config.json").read_text())
    variant = TypeAdapter[TrainedConfig](TrainedConfig).validate_python(config["variant"])
    seeds = RunSeeds.model_validate(config["seeds"])
    sae, whitening = build(variant, config["d_in"], seeds.init_seed).requires_grad_(False), read_whitening(sae_folder)
    W_dec: Float[np.ndarray, "d_sae d_in"] = (whitening.fold(sae) if whitening else sae).W_dec.numpy()
    return W_dec


def steps_kept(sae_folder: Path) -> tuple[dict[int, Path], int] | None:
    """The folders of a training run's SAE by step, the final one included, and its tokens in a step.

    None for an SAE that was not trained here, or that kept no checkpoint.
    """
    folders = checkpoint_folders(sae_folder)
    if not folders:
        return None
    training = json.loads((sae_folder / "config.json").read_text())["training"]
    return {**folders, training["n_steps"]: sae_folder}, training["batch_size"]
