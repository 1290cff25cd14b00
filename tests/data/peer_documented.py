"""Files that no installable package writes, from their documentation: see ``make_peer_checkpoints.py``."""

import json
from pathlib import Path

import numpy as np
from peer_common import D_IN, D_SAE, K, arrays, expect


def documented(root: Path) -> None:
    """Gemma Scope 1 and 2, Llama Scope as released: files from their documentation, numbers from numpy."""
    gemma_scope(root)
    llama_scope(root / "llama_scope")


def jumprelu(x: np.ndarray, W_enc: np.ndarray, b_enc: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """Pre-activations above the threshold."""
    pre = x @ W_enc + b_enc
    return pre * (pre > threshold)


def gemma_scope(root: Path) -> None:
    """Two seeds' worth of one layer: ``params.npz``; then lower case with ``config.json``, an SAE and a transcoder."""
    from safetensors.numpy import save_file

    keys = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    for seed, name in enumerate(["gemma_scope_1", "gemma_scope_2", "gemma_scope_2_transcoder"]):
        v, folder = arrays(seed), root / name
        folder.mkdir(parents=True)
        codes = jumprelu(v["x"], v["W_enc"], v["b_enc"], v["threshold"])
        x_hat = codes @ v["W_dec"] + v["b_dec"]
        stored = {key.lower() if seed else key: v[key] for key in keys}
        hook = "model.layers.3.output"
        config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "hf_hook_point_in": hook}
        config |= {"hf_hook_point_out": hook, "width": D_SAE, "l0": 7, "affine_connection": False, "type": "sae"}
        if name.endswith("transcoder"):
            stored["affine_skip_connection"] = v["W_skip"]
            config |= {"hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output"}
            config |= {"affine_connection": True, "type": "transcoder"}
            x_hat = x_hat + v["x"] @ v["W_skip"]
        if seed:
            save_file(stored, folder / "params.safetensors")
            (folder / "config.json").write_text(json.dumps(config))
        else:
            np.savez(folder / "params.npz", **stored)
        expect(folder, v["W_dec"], v["x"], codes, x_hat)


def llama_scope(root: Path) -> None:
    """What lm-saes did in October 2024 when it opened a file: see ``from_config`` of its ``sae.py``."""
    from safetensors.numpy import save_file

    v, norms, threshold = arrays(7), {"in": 4.5, "out": 4.5}, 1.1
    config = {
        "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post", "d_model": D_IN,
        "d_sae": D_SAE, "expansion_factor": 3, "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
        "act_fn": "jumprelu", "jump_relu_threshold": threshold, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms, "sparsity_include_decoder_norm": True, "use_glu_encoder": False,
        "top_k": K,
    }  # fmt: skip
    (root / "checkpoints").mkdir(parents=True)
    (root / "hyperparams.json").write_text(json.dumps(config))
    linear = {"encoder.weight": v["W_enc"].T, "encoder.bias": v["b_enc"]}
    linear |= {"decoder.weight": v["W_dec"].T, "decoder.bias": v["b_dec"]}
    stored = {key: np.ascontiguousarray(array) for key, array in linear.items()}
    save_file(stored, root / "checkpoints" / "final.safetensors")
    scale_in, scale_out = (np.sqrt(D_IN) / norms[side] for side in ("in", "out"))
    W_dec = v["W_dec"] * scale_in / scale_out
    norm = np.linalg.norm(W_dec, axis=1)
    codes = jumprelu(v["x"], v["W_enc"] * norm, v["b_enc"] / scale_in * norm, threshold)
    expect(root, v["W_dec"], v["x"], codes, codes @ (W_dec / norm[:, None]) + v["b_dec"] / scale_out)
