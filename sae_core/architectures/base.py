"""What every sparse autoencoder has: parameters, pre-activations, decoding, and the parts that losses are made of."""

import math
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


NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm")
"""What an SAE does to each input first, and undoes in its reconstruction; the names are those of SAELens.

``constant_norm_rescale`` gives every input the norm ``sqrt(d_in)``; ``layer_norm`` subtracts the mean over d_in and
divides by the standard deviation.
"""


LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation where the input is divided by it, and only there, as SAELens does."""


@dataclass(frozen=True)
class Conventions:
    """How an SAE reads and writes; the defaults are those of every SAE that is trained here.

    Raises:
        ValueError: for a normalisation that does not exist, or widths that contradict each other.
    """

    d_out: int | None = None
    """Width of what it writes; None is ``d_in``."""
    is_transcoder: bool = False
    """Whether it predicts the activations of another place than those it reads. It subtracts no ``b_dec`` and undoes
    no normalisation, since both belong to the place it writes to."""
    has_skip: bool = False
    """Whether ``x W_skip`` is added to what it writes."""
    subtract_b_dec: bool = True
    """Whether the encoder sees ``x - b_dec``."""
    normalize: str = "none"
    """One of ``NORMALIZATIONS``."""

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {', '.join(NORMALIZATIONS)}: got {self.normalize!r}")
        if self.is_transcoder and self.subtract_b_dec:
            raise ValueError("b_dec of a transcoder lies where it writes, so it cannot be taken from what it reads")
        if (self.d_out is not None or self.has_skip) and not self.is_transcoder:
            raise ValueError("d_out and W_skip are for transcoders: an SAE writes what it reads")


TRAINED_HERE = Conventions()
"""``b_dec`` taken from the input, nothing else."""


class Sae(nn.Module, ABC):
    """A sparse autoencoder: ``f = activate((x - b_dec) W_enc + b_enc)``, ``x_hat = f W_dec + b_dec``.

    Row i of ``W_dec`` is the direction of feature i. SAEs that others trained may deviate: see ``Conventions``.
    Abstract; the classes that can be built are final, one a file.

    A subclass's constructor takes ``d_in``, ``d_sae``, what ``encode_settings`` names, and ``conventions``.
    """

    architecture: ClassVar[str]
    """Name in configs and files."""
    in_activation_units: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec")
    """Parameters that scale with the activations; all others are left alone when a scale is folded in."""
    encode_settings: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that ``encode`` needs, besides the sizes and the weights: written into files."""

    def __init__(self, d_in: int, d_sae: int, conventions: Conventions = TRAINED_HERE):
        super().__init__()
        if d_in < 1 or d_sae < 2:
            raise ValueError(f"d_in must be at least 1 and d_sae at least 2: got d_in={d_in}, d_sae={d_sae}")
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, conventions.d_out or d_in
        self.conventions = conventions
        # Stored feature by feature, like W_dec: an encoder direction lies in one piece, which the kernels rely on.
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in).T)
        self.W_dec = nn.Parameter(torch.zeros(d_sae, self.d_out))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        if conventions.has_skip:
            self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out))

    @property
    def is_transcoder(self) -> bool:
        """Whether it predicts the activations of another place than those it reads."""
        return self.conventions.is_transcoder

    @abstractmethod
    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes, zero or positive, from pre-activations: what makes the architecture sparse. Pure."""

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """What ``activate`` receives, before any nonlinearity."""
        if self.conventions.normalize != "none":
            centre, length = self._normalization(x)
            x = (x - centre) / (length + (LAYER_NORM_EPSILON if self.conventions.normalize == "layer_norm" else 0.0))
        if self.conventions.subtract_b_dec:
            x = x - self.b_dec
        return nn.functional.linear(x, self.W_enc.T, self.b_enc)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations, zero or positive, in the units of ``x`` (of the normalised ``x`` if there is one)."""
        return self.activate(self.pre_activations(x))

    def decode(
        self, codes: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from feature activations.

        Args:
            x: what was encoded; needed by an SAE with ``W_skip`` or a normalisation, whose reconstruction depends on
                it besides the codes.

        Raises:
            ValueError: if ``x`` is needed and missing.
        """
        x_hat = codes @ self.W_dec + self.b_dec
        undo = self.conventions.normalize != "none" and not self.is_transcoder
        if not (undo or self.conventions.has_skip):
            return x_hat
        if x is None:
            raise ValueError(
                "this SAE needs its input to decode (a normalisation to undo, or W_skip): call decode(codes, x)"
            )
        if undo:
            centre, length = self._normalization(x)
            x_hat = x_hat * length + centre
        return x_hat + x @ self.W_skip if self.conventions.has_skip else x_hat

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction of ``x``, or what a transcoder predicts from it."""
        return self.decode(self.encode(x), x)

    def _normalization(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
        """Centre and length of each input: what the normalisation takes away and gives back."""
        if self.conventions.normalize == "constant_norm_rescale":
            length = x.norm(dim=-1, keepdim=True).clamp_min(1e-20) / math.sqrt(self.d_in)
            return torch.zeros_like(length), length
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)

    @torch.no_grad()
    def fold_scale(self, scale: float) -> "Sae":
        """Turn an SAE of ``scale * x`` into the same SAE of ``x``, in place.

        Codes and reconstructions come out in the units of ``x``, which are ``1 / scale`` times larger; decoder rows
        keep their length. Exact for activations that are homogeneous, ``activate(c h) = c activate(h)``.

        Raises:
            ValueError: if the scale is not a positive number, or the SAE normalises its input.
        """
        if not (0 < scale < float("inf")):
            raise ValueError(f"an activation scale must be a positive number, got {scale}")
        if self.conventions.normalize != "none":
            raise ValueError(f"this SAE normalises its input ({self.conventions.normalize}): it knows no scale to fold")
        for name in self.in_activation_units:
            getattr(self, name).div_(scale)
        return self


class TrainableSae(Sae):
    """An SAE that the training loop can train.

    Its constructor also takes the fields of its config class, by the same names.
    """

    can_resample: ClassVar[bool] = False
    """Whether ``TrainingConfig.resample_dead`` applies."""

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
        ValueError: if it has no loss here, or reads its input in a way that the loop does not know.
    """
    if not isinstance(sae, TrainableSae):
        raise ValueError(f"the architecture {sae.architecture} can be read and run, but not trained here")
    if sae.conventions != TRAINED_HERE:
        raise ValueError(
            f"an SAE with {sae.conventions} cannot be trained here, where b_dec is taken from inputs that are not "
            "normalised; train a new one"
        )
    return sae


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
