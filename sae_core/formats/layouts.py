"""Checks that every reader makes before it trusts a file: which keys it holds, which shapes, which sizes it states.

Part of *formats*. The messages name keys as the file spells them.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor


def require_keys(
    where: str, held: Collection[str], required: Collection[str], optional: Collection[str] = frozenset()
) -> None:
    """Refuse a file that lacks a key, or has one whose effect is not known.

    Args:
        where: the file, for messages.
        held: the keys that it holds.

    Raises:
        ValueError: naming the keys.
    """
    missing = sorted(set(required) - set(held))
    if missing:
        raise ValueError(
            f"{where} has no {', '.join(missing)}; expected are {', '.join(sorted(required))}, it holds "
            f"{', '.join(sorted(held)) or 'nothing'}"
        )
    unknown = sorted(set(held) - set(required) - set(optional))
    if unknown:
        raise ValueError(
            f"{where}: unknown keys {', '.join(unknown)}; they may change what the SAE computes, so it is not loaded"
        )


def require_shape(where: str, key: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse an array of another shape than the layout says; a transposed one by that name.

    Args:
        where: the file, for messages.
        shape: what is expected.
        meaning: what the expected numbers are and where they come from.

    Raises:
        ValueError: with both shapes.
    """
    found = tuple(tensor.shape)
    if found == shape:
        return
    if len(shape) == 2 and found == shape[::-1]:
        raise ValueError(
            f"{where}: {key} is transposed: it has shape {found}, expected {shape} = {meaning}; the file is not what "
            "its format says"
        )
    raise ValueError(f"{where}: {key} has shape {found}, expected {shape} = {meaning}")


def require_integer(where: str, config: Mapping[str, Any], key: str, minimum: int = 1) -> int:
    """A count from a configuration.

    Raises:
        ValueError: if it is missing, no whole number, or below the minimum.
    """
    if key not in config:
        raise ValueError(f"{where} has no key {key!r}")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < minimum:
        raise ValueError(f"{where}: {key} = {value!r}, expected a whole number of at least {minimum}")
    return int(value)


def require_choice(where: str, config: Mapping[str, Any], key: str, choices: Collection[Any]) -> Any:
    """An entry of a configuration that must be one of a few values.

    Raises:
        ValueError: if it is missing or another one.
    """
    if key not in config:
        raise ValueError(f"{where} has no key {key!r}")
    if config[key] not in choices:
        raise ValueError(f"{where}: {key} = {config[key]!r}; known are {', '.join(map(repr, choices))}")
    return config[key]
