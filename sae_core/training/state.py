"""What a training run is at a moment: saved now and then, so that a killed run goes on with the same bits.

Part of the training stage.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.training.optimiser import ConstrainedAdam
from sae_core.whole_files import write_whole


@dataclass(frozen=True)
class CurvePoint:
    """One point of the training curves, on the batch of that step."""

    step: int
    """Steps done."""
    loss: float
    mse: float
    """Squared error summed over d_in, mean over the batch, for activations of unit mean squared norm (whitened ones
    where the SAE is trained on those: then ``mse`` and ``fve`` are not those of the SAE that comes out)."""
    l0: float
    fve: float
    """One minus squared error over variance, within the batch."""
    dead_fraction: float
    """Share of features that did not fire for ``dead_after_tokens``."""
    lr: float
    sparsity_scale: float


@dataclass
class TrainingState:
    """Everything besides the weights and Adam's moments that the next step depends on."""

    tokens_since_fired: Int64[Tensor, " d_sae"]
    step: int = 0
    """Steps done."""
    curve: list[CurvePoint] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)
    """Numbers of the architecture's own at every point of the curve (``TrainableSae.watched``)."""
    seconds: list[float] = field(default_factory=list)
    """Wall time at every point of the curve; decides nothing."""


def save_state(path: Path, identity: dict[str, Any], sae: Sae, adam: ConstrainedAdam, state: TrainingState) -> None:
    """Write the state of a run, atomically.

    Args:
        identity: what decides the run; ``load_state`` refuses the state of another one.
    """
    content = {
        "identity": identity,
        "weights": sae.state_dict(),
        "adam": adam.state_dict(),
        "tokens_since_fired": state.tokens_since_fired,
        "step": state.step,
        "curve": [asdict(point) for point in state.curve],
        "watched": state.watched,
        "seconds": state.seconds,
    }
    write_whole(path, lambda part: torch.save(content, part))


def load_state(path: Path, identity: dict[str, Any], sae: Sae, adam: ConstrainedAdam) -> TrainingState | None:
    """Bring an SAE and its optimiser to a saved state; None, and nothing changed, where none was saved.

    Raises:
        ValueError: if another run saved it.
    """
    if not path.exists():
        return None
    device = sae.W_dec.device
    content = torch.load(path, map_location=device, weights_only=True)
    if content["identity"] != identity:
        differ = sorted(key for key in identity if content["identity"].get(key) != identity[key])
        raise ValueError(f"{path} belongs to a run with other settings ({', '.join(differ)}); delete it to start anew")
    sae.load_state_dict(content["weights"])
    adam.load_state_dict(content["adam"])
    return TrainingState(
        tokens_since_fired=content["tokens_since_fired"].to(device),
        step=content["step"],
        curve=[CurvePoint(**point) for point in content["curve"]],
        watched=list(content["watched"]),
        seconds=list(content["seconds"]),
    )
