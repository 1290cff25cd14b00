"""Thresholds of the asset checks."""

from typing import Literal

from pydantic import Field

from sae_core.config.base import Config

CheckName = Literal[
    "verified",
    "finite",
    "shapes",
    "certified",
    "fve",
    "alive",
    "l0_on_target",
    "above_null",
    "own_starts",
    "not_lower",
    "explained",
    "measured",
    "shuffled_near_half",
]
"""A check of a stage of a study."""
BLOCKING: tuple[CheckName, ...] = ("verified", "finite", "shapes", "certified")
"""Checks whose failure stops what lies downstream, unless a study file says otherwise."""


class ChecksConfig(Config):
    """Thresholds of the asset checks, and which of the checks block; the others warn."""

    blocking: list[CheckName] = Field(default=list(BLOCKING))
    """Checks whose failure fails the run and stops what lies downstream in it, on whatever stage they stand. It
    replaces the default: name those of it that shall go on blocking. An uncertified matching never blocks where
    ``consistency.time_budget_s`` is set: that it may end before the proof was asked for."""
    min_fve: float = Field(default=0.7, le=1)
    """Smallest fraction of variance explained on held-out tokens (``fve``)."""
    max_dead_fraction: float = Field(default=0.5, ge=0, le=1)
    """Largest share of features that never fire on held-out tokens (``alive``)."""
    max_l0_ratio: float = Field(default=1.5, gt=1)
    """Largest factor between the L0 of an SAE and its target, either way, where the architecture has one
    (``l0_on_target``)."""
    min_kappa: float = 0.05
    """Smallest chance-corrected PW-MCC (sign-flip null, or random directions where that one is switched off)
    (``above_null``)."""
    max_drop: float = Field(default=0.05, ge=0)
    """Largest drop of PW-MCC since the last materialization of the same variant, where one of the two has no confidence
    interval (two seeds). Where both have one, the drop may be as large as ``sqrt(h_old^2 + h_new^2)``, with the half
    widths of the two 95 % intervals (``not_lower``)."""
    max_missing_explanations: float = Field(default=0.5, ge=0, le=1)
    """Largest share of features without an explanation, for each explainer, and of matched pairs without a similarity
    (``explained``)."""
    max_shuffled_auc: float = Field(default=0.1, gt=0, le=0.5)
    """Largest distance from one half of the AUC of shuffled matches against decoys (``shuffled_near_half``)."""
