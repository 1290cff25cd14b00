"""Where tensors are computed: one rule for the language model and for training."""

from typing import Literal

import torch


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; ``auto`` takes a GPU where there is one.

    Raises:
        ValueError: if ``cuda`` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no CUDA device here; set device to auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
