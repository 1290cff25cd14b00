"""What every sparse autoencoder has: parameters, pre-activations, decoding. ``trainable`` adds what a loss needs."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
