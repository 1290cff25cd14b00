"""What every sparse autoencoder has: parameters, pre-activations, decoding, and the parts that losses are made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
    """The family of SAEs whose gradients need no dense product but the encoder's (``sparse_kernels``).

    Codes are the positive pre-activations, all of them or the ``k`` largest of a token, and the penalty is linear in
    them, so a feature that is zero on a token has a zero gradient there.
    """

    k: int | None = None
    """Features kept on a token; None keeps every positive one."""
    penalty: float = 0.0
    """Derivative of the sparsity penalty of one token by any of its positive codes."""
    aux_k: int = 0
    """Dead features that model the residual."""
    aux_coefficient: float = 0.0
    """Weight of that auxiliary loss."""


class Sae(nn.Module, ABC):
    """A sparse autoencoder: ``f = activate((x - b_dec) W_enc + b_enc)``, ``x_hat = f W_dec + b_dec``.

    Row i of ``W_dec`` is the direction of feature i. Abstract; the classes that can be built are final, one a file.

    A subclass's constructor takes ``d_in`` and the fields of its config class, by the same names.
    """

    architecture: ClassVar[str]
    """Name in configs and files."""
    in_activation_units: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec")
    """Parameters that scale with the activations; all others are left alone when a scale is folded in."""
    encode_settings: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that ``encode`` needs, besides the sizes and the weights: written into files."""
    can_resample: ClassVar[bool] = False
    """Whether ``TrainingConfig.resample_dead`` applies."""

    def __init__(self, d_in: int, d_sae: int):
        super().__init__()
        if d_in < 1 or d_sae < 2:
            raise ValueError(f"d_in must be at least 1 and d_sae at least 2: got d_in={d_in}, d_sae={d_sae}")
        self.d_in, self.d_sae = d_in, d_sae
        # Stored feature by feature, like W_dec: an encoder direction lies in one piece, which the kernels rely on.
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in).T)
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @abstractmethod
    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes, zero or positive, from pre-activations: what makes the architecture sparse. Pure."""

    @abstractmethod
    def loss(
        self,
        x: Float[Tensor, "batch d_in"],
        sparsity_scale: float = 1.0,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """The training loss on activations of unit mean squared norm. Pure: it changes no state.

        Args:
            sparsity_scale: factor on the sparsity penalty, in [0, 1] (its warm-up).
            dead: features that count as dead; None means none.
        """

    def sparse_rule(self) -> SparseRule | None:
        """How the sparse step computes the same gradients faster; None where only autograd can."""
        return None

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """What ``activate`` receives, before any nonlinearity."""
        return nn.functional.linear(x - self.b_dec, self.W_enc.T, self.b_enc)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations, zero or positive, in the units of ``x``."""
        return self.activate(self.pre_activations(x))

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction from feature activations."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction of ``x``."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def fold_scale(self, scale: float) -> "Sae":
        """Turn an SAE of ``scale * x`` into the same SAE of ``x``, in place.

        Codes and reconstructions come out in the units of ``x``, which are ``1 / scale`` times larger; decoder rows
        keep their length. Exact for activations that are homogeneous, ``activate(c h) = c activate(h)``.

        Raises:
            ValueError: if the scale is not a positive number.
        """
        if not (0 < scale < float("inf")):
            raise ValueError(f"an activation scale must be a positive number, got {scale}")
        for name in self.in_activation_units:
            getattr(self, name).div_(scale)
        return self

    @torch.no_grad()
    def initialise(self, seed: int) -> "Sae":
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
