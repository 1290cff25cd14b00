"""What a sparse autoencoder needs besides running it to be trained: a loss, and the parts that losses are made of."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures.base import TRAINED_HERE, Conventions, Sae


@dataclass(frozen=True)
class Moment:
    """When in its training an SAE sees a batch, as far as a loss may depend on it."""

    step: int = 0
    """Steps done."""
    n_steps: int = 1
    """Steps of the whole training."""
    sparsity_scale: float = 1.0
    """Factor on the sparsity penalty, in [0, 1] (its warm-up)."""
    dead: Bool[Tensor, " d_sae"] | None = None
    """Features that count as dead; None means none."""


WITHOUT_WARMUP = Moment()
"""The first step of a training without warm-ups and dead features."""


@dataclass(frozen=True)
class Loss:
    """What one batch gives the training loop."""

    total: Float[Tensor, ""]
    """What is minimised."""
    error: Float[Tensor, ""]
    """Squared error of the reconstruction, summed over d_in, mean over the batch."""
    codes: Float[Tensor, "batch d_sae"]
    """Feature activations; a feature with a positive one fired."""


@dataclass(frozen=True)
class SparseRule:
    """The family of SAEs whose gradients need no dense product but the encoder's (``sae_core.training.rectified``).

    Codes are positive pre-activations, all of them or the largest, and what is not selected feels no gradient.
    """

    k: int | None = None
    """Features kept on a token; None keeps every positive one."""
    over_batch: bool = False
    """Whether the tokens of a batch compete: ``k`` is their mean."""
    penalty: float = 0.0
    """Weight of the sparsity penalty now: the sum of a token's codes, each to the ``power``."""
    power: float = 1.0
    by_length: bool = False
    """Whether the penalty counts each code times the length of its decoder row."""
    nested: tuple[tuple[int, float], ...] = ()
    """Nested dictionaries, the last being the whole: features that each consists of, and the weight of its error.
    Without any, the whole with weight one."""
    aux_k: int = 0
    """Dead features that model the residual."""
    aux_coefficient: float = 0.0
    """Weight of that auxiliary loss."""


class TrainableSae(Sae):
    """An SAE that the training loop can train.

    Its constructor also takes the fields of its config class that are its own, by the same names.
    """

    can_resample: ClassVar[bool] = False
    """Whether ``TrainingConfig.resample_dead`` applies."""
    unit_decoder: ClassVar[bool] = True
    """Whether training keeps decoder rows at unit length and takes the gradient along them away."""
    adam_betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Decay of Adam's two moments."""
    observes: ClassVar[bool] = False
    """Whether ``observe`` wants to be told."""
    trained_with: ClassVar[Conventions] = TRAINED_HERE
    """How an SAE that is built to be trained reads and writes."""
    loss_needs: ClassVar[str | None] = None
    """The attribute that is None in an SAE whose file does not tell it: one to use, not to train."""

    @abstractmethod
    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """The training loss on activations of unit mean squared norm. Pure: it changes no state."""

    def sparse_rule(self, moment: Moment) -> SparseRule | None:
        """How the sparse step computes the same gradients faster; None, at every moment, for other architectures."""
        return None

    def observe(self, values: Float[Tensor, " n_active"], n_tokens: int, moment: Moment) -> None:
        """Learn what no gradient teaches (a running threshold) from the positive codes of a batch, in any order.

        Called once a step, after the loss and before the update, where ``observes``; state is in buffers.
        """

    def watched(self) -> dict[str, float]:
        """Numbers of its own for the training curves, for example ``threshold``."""
        return {}

    def finished(self) -> Sae:
        """The SAE to be used: where training has more parts than use has, a new one without them, else itself."""
        return self

    @torch.no_grad()
    def initialise(self, seed: int) -> "TrainableSae":
        """Random decoder rows of unit length, the encoder their transpose, biases zero.

        The global generator is untouched.
        """
        rows = torch.randn(self.d_sae, self.d_in, generator=torch.Generator().manual_seed(seed))
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_dec.copy_(rows)
        self.W_enc.copy_(rows.T)
        self.b_enc.zero_()
        self.b_dec.zero_()
        return self


def trainable(sae: Sae) -> TrainableSae:
    """The same SAE, for the training loop.

    Raises:
        ValueError: if it has no loss here, reads its input in a way that the loop does not know, or came from a file
            that does not tell a number its loss needs.
    """
    if not isinstance(sae, TrainableSae):
        raise ValueError(f"the architecture {sae.architecture} can be read and run, but not trained here")
    if sae.conventions != sae.trained_with:
        raise ValueError(
            f"an SAE with {sae.conventions} cannot be trained here, where {sae.architecture} is trained with "
            f"{sae.trained_with}; train a new one"
        )
    if sae.loss_needs is not None:
        needed(sae, sae.loss_needs)
    return sae


def needed(sae: Sae, name: str) -> float:
    """A number that the loss needs.

    Raises:
        ValueError: if it is None, as in an SAE from a file that does not tell it.
    """
    value: float | None = getattr(sae, name)
    if value is None:
        raise ValueError(
            f"the loss of this {sae.architecture} SAE needs {name}, which its file does not tell: "
            f"set sae.{name} before training it"
        )
    return value


def copied_into(sae: Sae, source: Sae) -> Sae:
    """``sae`` with the parameters of ``source`` that both have, on the same device, not to be trained on."""
    theirs = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name in theirs:
                parameter.copy_(theirs[name])
    return sae.to(source.W_dec.device).requires_grad_(False).eval()


def squared_error(x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
    """Squared error summed over d_in, mean over the batch."""
    return (x_hat - x).pow(2).sum(-1).mean()


def keep_largest(codes: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
    """The k largest entries of each row, zero elsewhere."""
    values, index = codes.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(codes).scatter(-1, index, values)


def auxiliary_loss(
    pre: Float[Tensor, "batch n_dead"],
    w_dec: Float[Tensor, "n_dead d_in"],
    residual: Float[Tensor, "batch d_in"],
    aux_k: int,
) -> Float[Tensor, ""]:
    """Aux-k (Gao et al. 2024, appendix A.2): how badly the ``aux_k`` strongest dead features model the residual.

    Args:
        pre: pre-activations of the dead features.
        w_dec: their decoder rows.
        residual: ``x - x_hat``, detached: the auxiliary loss must not pull on the features that are alive.

    Returns:
        Squared error relative to the variance of the residual over the batch; zero without a dead feature or
        when the residual does not vary.
    """
    variance = (residual - residual.mean(0)).pow(2).sum(-1).mean()
    if len(w_dec) == 0 or variance == 0:
        return residual.new_zeros(())
    codes = keep_largest(pre.relu(), min(aux_k, len(w_dec)))
    return squared_error(residual, codes @ w_dec) / variance
