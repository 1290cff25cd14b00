"""Small SAEs saved by the packages whose files are read, with what those packages compute from them.

Run once per package, each in an environment of its own, from the root of the repository; the folder of the package
under ``tests/data`` is made anew, with the same bits for the same versions::

    python tests/data/make_peer_checkpoints.py saelens              # pip install sae-lens==6.54.12
    python tests/data/make_peer_checkpoints.py dictionary_learning  # pip install dictionary-learning==0.1.0
    python tests/data/make_peer_checkpoints.py sparsify             # pip install eai-sparsify==1.3.3
    python tests/data/make_peer_checkpoints.py openmoss             # ... llamascopium==2.0.0b34 "transformer-lens<4"
    python tests/data/make_peer_checkpoints.py documented           # pip install numpy safetensors

``documented`` is for files that no installable package writes (Gemma Scope, and Llama Scope as it was released): they
are made from the documented layout, and what is expected of them is computed by a few lines of numpy.

Every checkpoint lies in a folder of its own with ``expected.npz`` beside it: ``x`` (inputs), ``codes``, ``x_hat`` and
``directions`` (rows are features), the last one alone where the SAE cannot be run. Weights are random, biases are not
zero, decoder rows not of unit length, and thresholds and k cut codes off, which is asserted here.
"""

import json
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from peer_common import D_IN, D_OUT, D_SAE, THRESHOLD, K, N, arrays, expect, fill, run
from peer_dictionary_learning import dictionary_learning
from peer_documented import documented

HERE = Path(__file__).resolve().parent
ELSEWHERE = {"d_out": D_OUT, "apply_b_dec_to_input": False}
PACKAGES = {
    "saelens": ["sae-lens", "torch"],
    "dictionary_learning": ["dictionary-learning", "torch"],
    "sparsify": ["eai-sparsify", "torch"],
    "openmoss": ["llamascopium", "transformer-lens", "torch"],
    "documented": ["numpy", "safetensors"],
}


def saelens(root: Path) -> None:
    """Every architecture as it is used, and as a training checkpoint with the SAE that the package exports from it."""
    import sae_lens.saes as lens

    used: dict[str, tuple[str, dict[str, Any]]] = {
        "standard": ("StandardSAE", {}),
        "standard_uncentred": ("StandardSAE", {"apply_b_dec_to_input": False}),
        "standard_rescaled": ("StandardSAE", {"normalize_activations": "constant_norm_rescale"}),
        "standard_layer_norm": ("StandardSAE", {"normalize_activations": "layer_norm"}),
        "topk": ("TopKSAE", {"k": K}),
        "topk_by_norm": ("TopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("JumpReLUSAE", {}),
        "gated": ("GatedSAE", {}),
        "transcoder": ("Transcoder", ELSEWHERE),
        "skip_transcoder": ("SkipTranscoder", ELSEWHERE),
        "jumprelu_transcoder": ("JumpReLUTranscoder", ELSEWHERE),
        "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", ELSEWHERE),
    }
    for seed, (name, (kind, settings)) in enumerate(used.items()):
        v = arrays(seed, d_out=settings.get("d_out", D_IN))
        sae = one_of_saelens(lens, kind, settings, v | {"W_skip": v["W_skip"].T})
        sae.save_model(root / name)
        run(root / name, sae, v["x"], v["W_dec"])
    trained: dict[str, tuple[str, dict[str, Any]]] = {
        "standard": ("StandardTrainingSAE", {}),
        "topk": ("TopKTrainingSAE", {"k": K}),
        "jumprelu": ("JumpReLUTrainingSAE", {}),
        "gated": ("GatedTrainingSAE", {}),
        "batchtopk": ("BatchTopKTrainingSAE", {"k": K}),
        "matryoshka": ("MatryoshkaBatchTopKTrainingSAE", {"k": K, "matryoshka_widths": [6, D_SAE]}),
    }
    for seed, (name, (kind, settings)) in enumerate(trained.items(), start=100):
        v = arrays(seed)
        sae = one_of_saelens(lens, kind, settings, v | {"topk_threshold": np.array(THRESHOLD)})
        sae.save_model(root / f"training_{name}")
        sae.save_inference_model(root / f"exported_{name}")
        exported = lens.SAE.load_from_disk(root / f"exported_{name}", device="cpu")
        run(root / f"exported_{name}", exported, v["x"], exported.W_dec.detach().numpy())
        # What chooses over a batch in training is, in use, what the package exports.
        run(root / f"training_{name}", exported if "batchtopk" in kind.lower() else sae, v["x"], v["W_dec"])


def one_of_saelens(lens: Any, kind: str, settings: dict[str, Any], values: dict[str, np.ndarray]) -> Any:
    """An SAE of a class of the package, with these weights."""
    config = getattr(lens, f"{kind}Config")(d_in=D_IN, d_sae=D_SAE, dtype="float32", device="cpu", **settings)
    sae = getattr(lens, kind)(config)
    fill(sae, values)
    return sae


def sparsify(root: Path) -> None:
    """SAEs and transcoders, with and without a skip connection, a seed in a folder, features by groups."""
    import torch
    from sparsify import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    runs: dict[str, dict[str, Any]] = {
        "layers.0": {"num_latents": D_SAE},
        "layers.1": {"expansion_factor": 3},
        "layers.2/seed1": {"expansion_factor": 3, "multi_topk": True},
        "layers.3.mlp": {"expansion_factor": 3, "transcode": True},
        "layers.4.mlp": {"expansion_factor": 3, "transcode": True, "skip_connection": True},
        "layers.5_groups": {"expansion_factor": 3, "activation": "groupmax"},
    }
    for seed, (name, settings) in enumerate(runs.items()):
        coder, v = SparseCoder(D_IN, SparseCoderConfig(k=K, **settings)), arrays(seed)
        fill(coder, v | {"encoder.weight": v["W_enc"].T, "encoder.bias": v["b_enc"], "W_skip": v["W_skip"].T})
        coder.save_to_disk(root / name)
        if "activation" in settings:
            expect(root / name, v["W_dec"])
            continue
        with torch.no_grad():
            x = torch.from_numpy(v["x"])
            chosen = coder.encode(x)
            codes = torch.zeros(N, D_SAE).scatter_(1, chosen.top_indices, chosen.top_acts)
            # With multi_topk, ``forward`` returns the reconstruction from 4 k features, which is only for its loss.
            once = coder.decode(chosen.top_acts, chosen.top_indices)
            x_hat = once if coder.cfg.multi_topk else coder(x).sae_out
            expect(root / name, v["W_dec"], v["x"], codes.numpy(), x_hat.numpy())
    (root / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "ctx_len": 2048}))


def openmoss(root: Path) -> None:
    """SAEs of llamascopium with every way of scaling activations and of choosing features."""
    from llamascopium import SAEConfig, SparseAutoEncoder

    place = {"hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}
    elsewhere = {"hook_point_out": "blocks.3.hook_mlp_out"}
    raw = place | {"norm_activation": "inference", "sparsity_include_decoder_norm": False}
    runs: dict[str, dict[str, Any]] = {
        "jumprelu": place | {"act_fn": "jumprelu", "norm_activation": "dataset-wise"},
        "jumprelu_raw": raw | {"act_fn": "jumprelu"},
        "topk": raw | {"act_fn": "topk"},
        "topk_by_norm": place | {"act_fn": "topk", "norm_activation": "dataset-wise"},
        "relu_token_wise": place | {"act_fn": "relu", "norm_activation": "token-wise"},
        "transcoder": raw | elsewhere | {"act_fn": "topk", "norm_activation": "dataset-wise"},
        "no_decoder_bias": raw | {"act_fn": "relu", "use_decoder_bias": False},
        "batchtopk": raw | {"act_fn": "batchtopk"},
        "glu": raw | {"act_fn": "relu", "use_glu_encoder": True},
    }
    for seed, (name, settings) in enumerate(runs.items()):
        sae = SparseAutoEncoder(SAEConfig(d_model=D_IN, expansion_factor=3, top_k=K, **settings))
        values = arrays(seed)
        theirs = {"W_E": values["W_enc"], "b_E": values["b_enc"], "W_D": values["W_dec"], "b_D": values["b_dec"]}
        glu = {"W_E_glu": values["W_enc"][:, ::-1], "b_E_glu": values["b_mag"]}
        fill(sae, theirs | glu | {"activation_function.log_jumprelu_threshold": np.log(values["threshold"])})
        sae.set_dataset_average_activation_norm({"blocks.3.hook_resid_post": 4.5, "blocks.3.hook_mlp_out": 1.7})
        (root / name).mkdir(parents=True)
        sae.save_pretrained(root / name)
        sae.cfg.save_hyperparameters(root / name)
        run_openmoss(root / name, sae, values["x"], runs=name not in ("batchtopk", "glu"))


def run_openmoss(folder: Path, sae: Any, x: np.ndarray, runs: bool) -> None:
    """Scaled, encoded, decoded and scaled back, as its trainer and its analysis do."""
    import torch

    with torch.no_grad():
        if not runs:
            return expect(folder, sae.W_D.numpy())
        read_at, write_at = sae.cfg.hook_point_in, sae.cfg.hook_point_out
        scaled, factors = sae.normalize_activations({read_at: torch.from_numpy(x)}, return_scale_factor=True)
        codes = sae.encode(scaled[read_at])
        factor = factors[read_at] if write_at == read_at else sae.compute_norm_factor(torch.from_numpy(x), write_at)
        expect(folder, sae.W_D.numpy(), x, codes.numpy(), (sae.decode(codes) / factor).numpy())


MAKERS: dict[str, Callable[[Path], None]] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "openmoss": openmoss,
    "documented": documented,
}

if __name__ == "__main__":
    peer = sys.argv[1]
    shutil.rmtree(HERE / peer, ignore_errors=True)
    MAKERS[peer](HERE / peer)
    versions = {package: metadata.version(package) for package in PACKAGES[peer]} | {"numpy": np.__version__}
    (HERE / peer / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
