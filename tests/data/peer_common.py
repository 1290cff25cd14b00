"""What the makers of the peers' checkpoints share: random weights, and the file of what is expected of them."""

from pathlib import Path
from typing import Any

import numpy as np

D_IN, D_SAE, D_OUT, N, K = 8, 24, 10, 6, 4
THRESHOLD = 0.9


def arrays(seed: int, d_in: int = D_IN, d_out: int = D_IN) -> dict[str, np.ndarray]:
    """Random parameters by the names of this project; float32."""
    rng = np.random.default_rng(seed)
    drawn = {
        "W_enc": rng.normal(size=(d_in, D_SAE)) * 0.5,
        "W_dec": rng.normal(size=(D_SAE, d_out)) * rng.uniform(0.2, 1.0, (D_SAE, 1)),
        "b_enc": rng.normal(size=D_SAE) * 0.3,
        "b_dec": rng.normal(size=d_out),
        "threshold": rng.uniform(0.3, 1.5, D_SAE),
        "b_gate": rng.normal(size=D_SAE) * 0.5,
        "b_mag": rng.normal(size=D_SAE) * 0.5,
        "r_mag": rng.normal(size=D_SAE) * 0.4,
        "W_skip": rng.normal(size=(d_in, d_out)) * 0.5,
        "x": rng.normal(size=(N, d_in)) * 1.5 + 0.2,
    }
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def expect(folder: Path, directions: Any, x: Any = None, codes: Any = None, x_hat: Any = None) -> None:
    """Write ``expected.npz``; codes must be a choice among the positive pre-activations, neither none nor all."""
    given = {"directions": directions, "x": x, "codes": codes, "x_hat": x_hat}
    kept = {name: np.asarray(value, dtype=np.float32) for name, value in given.items() if value is not None}
    if "codes" in kept:
        fires = (kept["codes"] != 0).mean()
        assert 0.03 < fires < 0.75, f"{folder}: {fires:.0%} of the codes are not zero"
        assert np.isfinite(kept["x_hat"]).all()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "expected.npz", **kept)


def fill(module: Any, values: dict[str, np.ndarray]) -> None:
    """Set the parameters and buffers of a torch module that have a value here, by name."""
    import torch

    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in values:
            tensor.data.copy_(torch.from_numpy(np.array(values[name])))


def run(folder: Path, sae: Any, x: np.ndarray, directions: np.ndarray) -> None:
    """What a torch SAE with ``encode`` and ``forward`` computes."""
    import torch

    with torch.no_grad():
        given = torch.from_numpy(x)
        expect(folder, directions, x, sae.encode(given).numpy(), sae(given).numpy())
