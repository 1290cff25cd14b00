"""What the checks of all stages share: how they are declared, what they show, and whether they block."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dagster as dg

from sae_core.config import BLOCKING
from sae_core.store import Artifact
from sae_core.stored_files import changed_files

Function = TypeVar("Function", bound=Callable[..., Any])

VERIFIED = "All files that the manifest names are there, in the size they were written with."
FINITE = "Every number is finite."

_DECLARED: dict[str, dict[str, str]] = {}
"""Names and descriptions of the checks, by the name of the function that makes them."""


@dataclass(frozen=True)
class Check:
    """One outcome, as the UI shows it."""

    name: str
    passed: bool
    value: float | int | str | None
    """What decided it; a number is plotted over evaluations."""
    expected: str
    what_to_do: str
    """When it fails."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More values, by name."""


def makes(**described: str) -> Callable[[Function], Function]:
    """Declare which checks a function makes: a description for every name, in the order of the results."""

    def declare(function: Function) -> Function:
        _DECLARED[function.__name__] = described
        return function

    return declare


def declared_checks() -> dict[str, dict[str, str]]:
    """Names and descriptions of all checks, by the function that makes them."""
    return _DECLARED


def check_specs(
    key: dg.AssetKey, checks: Callable[..., Any], blocking: Collection[str] = BLOCKING
) -> list[dg.AssetCheckSpec]:
    """The declarations of the checks that a function of this package makes.

    Args:
        blocking: names of those whose failure stops what lies downstream.
    """
    return [
        dg.AssetCheckSpec(name, asset=key, description=description, blocking=name in blocking)
        for name, description in _DECLARED[checks.__name__].items()
    ]


def results(
    key: dg.AssetKey, checks: Iterable[Check], blocking: Collection[str] = BLOCKING
) -> list[dg.AssetCheckResult]:
    """The outcomes for Dagster: an error where the check blocks, else a warning."""
    return [
        dg.AssetCheckResult(
            asset_key=key,
            check_name=check.name,
            passed=bool(check.passed),
            severity=dg.AssetCheckSeverity.ERROR if check.name in blocking else dg.AssetCheckSeverity.WARN,
            description=None if check.passed else f"expected {check.expected}; {check.what_to_do}",
            metadata={
                "value": _shown(check.value),
                "expected": check.expected,
                "what_to_do": "nothing" if check.passed else check.what_to_do,
                **{name: _shown(value) for name, value in check.details.items()},
            },
        )
        for check in checks
    ]


def _shown(value: Any) -> Any:
    # NaN and infinity are no JSON: the UI could not show the check.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verified(*artifacts: Artifact) -> Check:
    """Sizes notice what was cut short or removed; a full hash of the shards would cost more than reading them."""
    wrong = [f"{artifact.manifest.kind}: {fault}" for artifact in artifacts for fault in _faults(artifact)]
    n_files = sum(len(artifact.manifest.files) for artifact in artifacts)
    return Check(
        "verified",
        not wrong,
        n_files - len(wrong),
        f"{n_files} files, as their manifests name them",
        "something altered the store: delete the folder of the artifact and materialize this partition again",
        {"wrong": ", ".join(wrong)},
    )


def _faults(artifact: Artifact) -> list[str]:
    return changed_files(artifact.path, artifact.manifest)


def finite(numbers: Mapping[str, Any], what_to_do: str) -> Check:
    """Every number of (nested) JSON values is finite; what is None was not measured."""
    wrong = not_finite(numbers)
    return Check(
        "finite", not wrong, len(wrong), "no number that is not finite", what_to_do, {"wrong": ", ".join(wrong)}
    )


def not_finite(value: Any, where: str = "") -> list[str]:
    """Places in JSON values with a number that is NaN or infinite."""
    if isinstance(value, Mapping):
        return [bad for name, inner in value.items() for bad in not_finite(inner, f"{where}.{name}" if where else name)]
    if isinstance(value, (list, tuple)):
        return [bad for place, inner in enumerate(value) for bad in not_finite(inner, f"{where}[{place}]")]
    return [f"{where}: {value}"] if isinstance(value, float) and not math.isfinite(value) else []


def reasons(missing: Mapping[str, int]) -> str:
    """Counts and reasons, the most frequent first."""
    ordered = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)
