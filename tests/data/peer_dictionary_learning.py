"""Checkpoints of dictionary_learning: see ``make_peer_checkpoints.py``."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from peer_common import D_IN, D_SAE, THRESHOLD, K, arrays, expect, fill


def dictionary_learning(root: Path) -> None:
    """Every class of dictionary, written by a training run of one step from random weights."""
    import torch
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate

    places = {"layer": 3, "lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_3"}
    schedule = {"steps": 2, "warmup_steps": 0, "decay_start": None}
    sparse = schedule | {"sparsity_warmup_steps": None}
    matryoshka = schedule | {"k": K, "group_fractions": [0.25, 0.75]}
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "AutoEncoder": (trainers.StandardTrainer, sparse),
        "AutoEncoder_april_update": (StandardTrainerAprilUpdate, sparse),
        "AutoEncoder_p_anneal": (trainers.PAnnealTrainer, sparse | {"sparsity_function": "Lp"}),
        "GatedAutoEncoder": (trainers.GatedSAETrainer, sparse),
        "AutoEncoderTopK": (trainers.TopKTrainer, schedule | {"k": K}),
        "BatchTopKSAE": (trainers.BatchTopKTrainer, schedule | {"k": K}),
        "BatchTopKSAE_unset": (trainers.BatchTopKTrainer, schedule | {"k": K}),
        "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKTrainer, matryoshka),
        "JumpReluAutoEncoder": (trainers.JumpReluTrainer, sparse | {"target_l0": K}),
    }
    for seed, (name, (trainer, settings)) in enumerate(runs.items()):
        one_training_run(root / name, seed, trainer, {"activation_dim": D_IN, "dict_size": D_SAE} | places | settings)
    written_by_hand(root, arrays(50), torch)


def one_training_run(folder: Path, seed: int, trainer: Any, settings: dict[str, Any]) -> None:
    """``trainSAE`` of the package writes ``ae.pt``, ``config.json`` and ``checkpoints/ae_1.pt``."""
    import torch
    from dictionary_learning.training import trainSAE

    values, made = arrays(seed), []
    linear = {"encoder.weight": values["W_enc"].T, "decoder.weight": values["W_dec"].T, "encoder.bias": values["b_enc"]}
    gated = {"gate_bias": values["b_gate"], "mag_bias": values["b_mag"], "decoder_bias": values["b_dec"]}
    common = values | linear | gated | {"bias": values["b_dec"]}
    threshold = common.pop("threshold")
    # in units of activations that trainSAE divides by their norm
    threshold = threshold / 4 if "JumpRelu" in folder.name else np.float32(THRESHOLD / 4)

    def randomised(**config: Any) -> Any:
        made.append(trainer(**config))
        ae = made[-1].ae
        fill(ae, common | ({} if folder.name.endswith("_unset") else {"threshold": threshold}))
        return made[-1]

    class Data:
        """What the package calls a buffer."""

        config = {"io": "out", "ctx_len": 128, "d_submodule": D_IN}  # noqa: RUF012

        def __iter__(self) -> Any:
            return iter([torch.from_numpy(values["x"].copy()) for _ in range(3)])

    torch.manual_seed(seed)
    trainSAE(
        Data(), [{"trainer": randomised, "device": "cpu", "seed": seed} | settings], steps=2, save_steps=[1],
        save_dir=str(folder), normalize_activations=True, device="cpu", verbose=False,
    )  # fmt: skip
    for file in sorted((folder / "trainer_0").iterdir()):
        shutil.move(file, folder / file.name)
    (folder / "trainer_0").rmdir()
    if folder.name != "AutoEncoderTopK":  # one example is enough
        shutil.rmtree(folder / "checkpoints")
    decoder = made[0].ae.W_dec if hasattr(made[0].ae, "W_dec") else made[0].ae.decoder.weight.T
    if folder.name.endswith("_unset"):
        expect(folder, decoder.detach().numpy())
    else:
        run_dictionary(folder, made[0].ae, values["x"])


def run_dictionary(folder: Path, ae: Any, x: np.ndarray) -> None:
    """What a dictionary of the package computes."""
    import torch

    with torch.no_grad():
        codes = ae.encode(torch.from_numpy(x))
        decoder = ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.T
        expect(folder, decoder.numpy(), x, codes.numpy(), ae.decode(codes).numpy())


def written_by_hand(root: Path, values: dict[str, np.ndarray], torch: Any) -> None:
    """A class that no trainer makes, and the backups that newer versions write: the classes are the package's own."""
    from dictionary_learning.dictionary import AutoEncoderNew, GatedAutoEncoder

    linear = {"encoder.weight": values["W_enc"].T, "decoder.weight": values["W_dec"].T, "encoder.bias": values["b_enc"]}
    told = {"activation_dim": D_IN, "dict_size": D_SAE, "lm_name": "EleutherAI/pythia-70m"}
    new = AutoEncoderNew(D_IN, D_SAE)
    fill(new, linear | {"decoder.bias": values["b_dec"]})
    run_dictionary(root / "AutoEncoderNew", new, values["x"])
    torch.save(new.state_dict(), root / "AutoEncoderNew" / "ae.pt")
    config = {"trainer": {"dict_class": "AutoEncoderNew"} | told, "buffer": {"ctx_len": 128}}
    (root / "AutoEncoderNew" / "config.json").write_text(json.dumps(config, indent=4))
    gated = GatedAutoEncoder(D_IN, D_SAE)
    biases = {"gate_bias": values["b_gate"], "mag_bias": values["b_mag"], "decoder_bias": values["b_dec"]}
    fill(gated, linear | values | biases)
    factor, folder = 2.5, root / "backup"
    held = {name: tensor.clone() for name, tensor in gated.state_dict().items()}
    gated.scale_biases(factor)
    run_dictionary(folder, gated, values["x"])
    trainer = {"dict_class": "GatedAutoEncoder"} | told
    torch.save({"step": 7, "ae": held, "optimizer": {}, "config": trainer, "norm_factor": factor}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}, indent=4))
