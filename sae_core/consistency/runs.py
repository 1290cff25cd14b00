"""One trained SAE as *consistency*, the stable core and the consensus see it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Run:
    """One trained SAE, as consistency sees it.

    Raises:
        ValueError: if there is not one frequency a feature, or one is negative or not finite; if the encoder or the
            initial decoder has another shape than the decoder says.
    """

    name: str
    """For example ``seed 0``."""
    W_dec: Float[np.ndarray, "d_sae d_in"]
    """Decoder, one feature a row."""
    frequency: Float[np.ndarray, " _"] | None = None
    """Share of evaluation tokens on which each feature fired; None when unknown."""
    W_enc: Float[np.ndarray, "_ _"] | None = None
    """Encoder ``(d_in, d_sae)``, one feature a column; None when unknown, then there is no joint match. (The encoder
    of a transcoder may have another width than its decoder.)"""
    initial: Float[np.ndarray, "_ _"] | None = None
    """``W_dec`` at step 0, before training; None when unknown, then an initialisation shared by runs is looked for
    in the matched feature numbers only."""

    def __post_init__(self) -> None:
        if self.frequency is not None:
            self._check_frequency(self.frequency)
        d_sae, d_in = self.W_dec.shape
        if self.W_enc is not None and self.W_enc.shape[1] != d_sae:
            raise ValueError(
                f"{self.name}: an encoder has one column a feature, here shape (_, {d_sae}), got {self.W_enc.shape}; "
                "transpose it, or pass the encoder of the same SAE"
            )
        if self.initial is not None and self.initial.shape != self.W_dec.shape:
            raise ValueError(
                f"{self.name}: the decoder at step 0 must have the shape of the decoder, ({d_sae}, {d_in}), "
                f"got {self.initial.shape}; pass the checkpoint of the same run"
            )

    def _check_frequency(self, frequency: Float[np.ndarray, " _"]) -> None:
        if frequency.shape != (len(self.W_dec),):
            raise ValueError(
                f"{self.name}: expected one frequency a feature, shape ({len(self.W_dec)},), "
                f"got {frequency.shape}; pass the frequencies of the same SAE"
            )
        if not (np.isfinite(frequency) & (frequency >= 0)).all():
            raise ValueError(f"{self.name}: a frequency is negative or not finite; evaluate the SAE again")

    @property
    def alive(self) -> Bool[np.ndarray, " d_sae"] | None:
        """Which features fired at all on the evaluation tokens; None when unknown."""
        return None if self.frequency is None else self.frequency > 0
