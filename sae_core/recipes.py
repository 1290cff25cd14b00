"""Recipes: with which arguments a stage was called, so that it can be called again.

A recipe lies in the manifest, outside of the fingerprint and the content: ``{"stage": name, "arguments": {...}}``. The
arguments are complete settings, also those that decide nothing (where a model lies, how many replies are asked for at
once), with the defaults of the day written out. Upstream artifacts are no arguments: the manifest names them.
``reproduce`` turns a recipe back into a call.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Recipe = dict[str, Any]


def recipe(stage: str, **arguments: Any) -> Recipe:
    """The recipe of a stage.

    Args:
        stage: its name among ``sae_core.reproduce.STAGES``.
        arguments: settings, or JSON values of them.
    """
    return {"stage": stage, "arguments": {name: _plain(value) for name, value in arguments.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
