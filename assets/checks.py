"""What should hold of each stage, as asset checks: errors where a result would be wrong, warnings where it is poor."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from assets.point_numbers import point_numbers
from sae_core.config import (
    BatchTopKConfig,
    ChecksConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    TopKConfig,
    VariantConfig,
)
from sae_core.store import Artifact

Check = tuple[str, bool, dict[str, Any]]
"""Name, passed, and the values that decided it."""

BLOCKING = {"verified", "finite", "certified"}
"""Checks whose failure stops what lies downstream; the others warn."""

_NAMES: dict[str, list[str]] = {
    "activation_checks": ["verified"],
    "sae_checks": ["verified", "finite", "fve", "alive", "l0_on_target"],
    "consistency_checks": ["finite", "certified", "above_null"],
    "context_checks": ["verified"],
    "explanation_checks": ["explained"],
    "score_checks": ["finite", "measured"],
    "similarity_checks": ["explained", "shuffled_near_half"],
    "experiment_checks": ["verified", "finite", "certified", "above_chance"],
}


def check_specs(key: dg.AssetKey, checks: Callable[..., Any]) -> list[dg.AssetCheckSpec]:
    """The declarations of the checks that a function of this module makes."""
    return [dg.AssetCheckSpec(name, asset=key, blocking=name in BLOCKING) for name in _NAMES[checks.__name__]]


def _results(key: dg.AssetKey, checks: list[Check]) -> list[dg.AssetCheckResult]:
    return [
        dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=bool(passed),
            severity=dg.AssetCheckSeverity.ERROR if name in BLOCKING else dg.AssetCheckSeverity.WARN,
            metadata=values,
        )
        for name, passed, values in checks
    ]


def _verified(artifact: Artifact) -> Check:
    # A full hash of the shards would cost more than reading them; sizes notice what was cut short or removed.
    wrong = [
        name
        for name, entry in artifact.manifest.files.items()
        if not (artifact.path / name).is_file() or (artifact.path / name).stat().st_size != entry.size
    ]
    return ("verified", not wrong, {"files": len(artifact.manifest.files), "wrong": ", ".join(wrong)})


def activation_checks(key: dg.AssetKey, activations: Artifact) -> list[dg.AssetCheckResult]:
    """The shards are all there."""
    return _results(key, [_verified(activations)])


def sae_checks(
    key: dg.AssetKey, sae: Artifact, evaluation: Artifact, variant: VariantConfig, limits: ChecksConfig
) -> list[dg.AssetCheckResult]:
    """The SAE is there, finite, reconstructs, is mostly alive, and as sparse as asked for."""
    measured = evaluation.summary
    target = _target_l0(variant)
    ratio = 1.0 if target is None else measured["l0"] / target
    in_range = 1 / limits.max_l0_ratio <= ratio <= limits.max_l0_ratio
    return _results(
        key,
        [
            _verified(sae),
            ("finite", all(math.isfinite(measured[name]) for name in ("l0", "fve")), {}),
            ("fve", measured["fve"] >= limits.min_fve, {"fve": measured["fve"], "expected_at_least": limits.min_fve}),
            (
                "alive",
                measured["dead_fraction"] <= limits.max_dead_fraction,
                {"dead_fraction": measured["dead_fraction"], "expected_at_most": limits.max_dead_fraction},
            ),
            ("l0_on_target", in_range, {"l0": measured["l0"], "l0_over_target": ratio}),
        ],
    )


def _target_l0(variant: VariantConfig) -> float | None:
    """Active features on a token that were asked for; None where a penalty decides them."""
    if isinstance(variant, JumpReLUConfig):
        return variant.target_l0
    return variant.k if isinstance(variant, (TopKConfig, BatchTopKConfig, MatryoshkaBatchTopKConfig)) else None


def consistency_checks(key: dg.AssetKey, consistency: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """The match is proven optimal, and seeds agree more than chance makes them."""
    summary = consistency.summary
    kappa = summary["kappa_sign_flip"]
    return _results(
        key,
        [
            ("finite", math.isfinite(summary["pw_mcc"]), {"pw_mcc": summary["pw_mcc"]}),
            ("certified", summary["certified"], {}),
            (
                "above_null",
                # None: the null leaves no room above it, so nothing can be said to agree beyond chance.
                kappa is not None and kappa >= limits.min_kappa,
                {"kappa_sign_flip": kappa, "expected_at_least": limits.min_kappa},
            ),
        ],
    )


def context_checks(key: dg.AssetKey, contexts: Artifact) -> list[dg.AssetCheckResult]:
    """The files are all there."""
    return _results(key, [_verified(contexts)])


def explanation_checks(
    key: dg.AssetKey, explanations: Mapping[str, Artifact], limits: ChecksConfig
) -> list[dg.AssetCheckResult]:
    """Every explainer explained most of the features it was asked for.

    Args:
        explanations: by name, an artifact an explainer.
    """
    values: dict[str, Any] = {"expected_at_most": limits.max_missing_explanations}
    shares = []
    for made in explanations.values():
        summary = made.summary
        shares.append(summary["n_missing"] / max(summary["n_missing"] + summary["n_explanations"], 1))
        values[f"missing_fraction/{summary['explainer']}"] = shares[-1]
        values[f"missing/{summary['explainer']}"] = _reasons(summary["missing"])
    return _results(key, [("explained", max(shares) <= limits.max_missing_explanations, values)])


def score_checks(
    key: dg.AssetKey, scores: Mapping[str, Artifact], explanations: Mapping[str, Artifact]
) -> list[dg.AssetCheckResult]:
    """Scores are numbers, and every explainer that explained anything has some.

    Args:
        scores: by name, an artifact an explainer.
        explanations: those scored, in the same order.
    """
    unscored, infinite = [], []
    for made, explained in zip(scores.values(), explanations.values(), strict=True):
        explainer, found = explained.summary["explainer"], made.summary["scores"]
        known = [score for score in found if score["n"]]
        if made.summary["n_explanations"] and not known:
            unscored.append(explainer)
        # None where there is a count would be a number that got lost.
        infinite += [f"{explainer} {score['name']}" for score in known if not _is_finite(score["median"])]
    return _results(
        key,
        [
            ("finite", not infinite, {"wrong": ", ".join(infinite)}),
            ("measured", not unscored, {"without_scores": ", ".join(unscored)}),
        ],
    )


def similarity_checks(key: dg.AssetKey, similarity: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """Most matched pairs have a value of the primary measure, and shuffled matches are no more alike than decoys."""
    summary = similarity.summary
    measures = {each["measure"]: each for each in summary["measures"]}
    primary = measures[summary["primary"]]
    missing = 1 - primary["n_used"] / max(primary["n_asked"], 1)
    shuffled = {name: each["auc_shuffled"] for name, each in measures.items() if each["auc_shuffled"] is not None}
    explained = {
        "missing_fraction": missing,
        "missing": _reasons(primary["missing"]),
        "expected_at_most": limits.max_missing_explanations,
    }
    apart = {f"auc_shuffled/{name}": value for name, value in shuffled.items()}
    return _results(
        key,
        [
            ("explained", missing <= limits.max_missing_explanations, explained),
            (
                "shuffled_near_half",
                all(abs(value - 0.5) <= limits.max_shuffled_auc for value in shuffled.values()),
                {**apart, "expected_distance_at_most": limits.max_shuffled_auc},
            ),
        ],
    )


def _reasons(missing: Mapping[str, int]) -> str:
    """Counts and reasons, the most frequent first."""
    ordered = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def experiment_checks(key: dg.AssetKey, experiment: Artifact) -> list[dg.AssetCheckResult]:
    """The numbers of every point are there, matchings proven optimal, and agreement is more than chance makes it."""
    points = point_numbers(experiment)
    infinite = [point.key for point in points if not (math.isfinite(point.gt_mcc) and math.isfinite(point.pw_mcc))]
    unproven = [point.key for point in points if not point.certified]
    # Not an error: that a published setting is at chance is a result.
    at_chance = [f"{point.key} ({', '.join(point.chance_like)})" for point in points if point.chance_like]
    return _results(
        key,
        [
            _verified(experiment),
            ("finite", not infinite, {"n_points": len(points), "wrong": ", ".join(infinite)}),
            ("certified", not unproven, {"n_points": len(points), "wrong": ", ".join(unproven)}),
            ("above_chance", not at_chance, {"n_points": len(points), "chance_like": ", ".join(at_chance)}),
        ],
    )
