"""placeholder until the solver is in"""
from dataclasses import dataclass
import numpy as np
import torch


@dataclass(frozen=True)
class Assignment:
    left: np.ndarray
    right: np.ndarray
    best_left: np.ndarray
    best_right: np.ndarray
    alternative_left: np.ndarray
    alternative_right: np.ndarray
    gap: float


def assign(a: torch.Tensor, b: torch.Tensor, signed: bool = False, tolerance: float = 1e-6) -> Assignment:
    from sae_core.matching import _assign_dense

    return _assign_dense(a.double(), b.double(), signed)
