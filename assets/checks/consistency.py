"""Checks of consistency."""

import math
from typing import Any

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, Check, finite, makes, results, verified
from assets.checks.earlier import Agreement
from sae_core.config import ChecksConfig, StudyConfig
from sae_core.store import Artifact


def consistency_blocking(study: StudyConfig) -> list[str]:
    """Names of the checks that block: with a time budget, a matching that ends before its proof is as asked for."""
    within_budget = study.consistency.time_budget_s is not None
    return [name for name in study.checks.blocking if not (name == "certified" and within_budget)]


@makes(
    verified=VERIFIED,
    finite=FINITE,
    certified="Every matching is proven to be the best one; with `consistency.time_budget_s` a warning, with the "
    "bracket of PW-MCC.",
    above_null="PW-MCC corrected for chance reaches `checks.min_kappa`.",
    own_starts="The runs do not look as if they started from the same weights.",
    not_lower="PW-MCC is not lower than at the last materialization of the variant, by more than the two confidence "
    "intervals allow (`checks.max_drop` without them).",
)
def consistency_checks(
    key: dg.AssetKey, made: Artifact, study: StudyConfig, earlier: Agreement | None
) -> list[dg.AssetCheckResult]:
    """The match is proven optimal, and independent seeds agree, more than by chance and not less than before.

    Args:
        earlier: what the last materialization of the same variant found that had another content; None for the first.
    """
    summary = made.summary
    again = "delete the folder of the artifact and materialize it again; check the SAEs of the variant (`finite`)"
    checks = [
        verified(made),
        finite(summary, again),
        _certified(summary, study),
        _above_null(summary, study.checks),
        _own_starts(summary, study),
        not_lower(Agreement(summary["pw_mcc"], summary["ci_low"], summary["ci_high"]), earlier, study.checks),
    ]
    return results(key, checks, consistency_blocking(study))


def _certified(summary: dict[str, Any], study: StudyConfig) -> Check:
    budget = study.consistency.time_budget_s
    asked = "" if budget is None else f"; a matching may take {budget:g} s"
    remedy = (
        "materialize it again, and report it: without a time budget every matching ends with its proof"
        if budget is None
        else "read PW-MCC as a bracket, or raise consistency.time_budget_s (or leave it out)"
    )
    return Check(
        "certified",
        summary["certified"],
        f"PW-MCC is in [{summary['pw_mcc']:.6g}, {summary['upper_bound']:.6g}]",
        f"every matching proven optimal{asked}",
        remedy,
        {"pw_mcc": summary["pw_mcc"], "upper_bound": summary["upper_bound"], "stopped": ", ".join(summary["stopped"])},
    )


def _above_null(summary: dict[str, Any], limits: ChecksConfig) -> Check:
    # Without draws there is no sign-flip null; a kappa of None beside a null: it leaves no room above it.
    null = "isotropic" if summary["null_sign_flip"] is None else "sign_flip"
    kappa = summary[f"kappa_{null}"]
    return Check(
        "above_null",
        kappa is not None and kappa >= limits.min_kappa,
        kappa,
        f"kappa ({null.replace('_', ' ')}) of at least {limits.min_kappa:g} (checks.min_kappa)",
        "what the seeds share is what chance gives: take it for no evidence of common features; train longer, or look "
        "at sparser variants",
        {"null": summary[f"null_{null}"], "pw_mcc": summary["pw_mcc"]},
    )


def _own_starts(summary: dict[str, Any], study: StudyConfig) -> Check:
    remedy = (
        "as asked for: `vary` leaves `init` out, so PW-MCC says how far the order or the data matter, not whether "
        "features are found again from another start"
        if "init" not in study.vary
        else "PW-MCC says little about runs from the same weights: train with other seeds of the initialisation, or "
        "take SAEs that were trained independently"
    )
    return Check(
        "own_starts",
        not summary["shared_initialisation"],
        summary["shared_initialisation_reason"],
        "runs that started from weights of their own",
        remedy,
        {"n_same_index": summary["n_same_index"], "null_untrained": summary["null_untrained"]},
    )


def not_lower(now: Agreement, earlier: Agreement | None, limits: ChecksConfig) -> Check:
    """PW-MCC has not dropped since the last materialization of the same variant.

    It fails where ``pw_mcc_old - pw_mcc_new > sqrt(h_old^2 + h_new^2)``, with ``h`` the half widths of the two 95 %
    confidence intervals: about what the difference of two independent estimates may be. Where one of them has no
    interval (two seeds), where the drop is larger than ``checks.max_drop``. The first one passes. A cache hit is
    compared with what the one that made it was compared with, as far as the history has it.
    """
    if earlier is None:
        return Check("not_lower", True, None, "no earlier one", "")
    drop, old, new = earlier.pw_mcc - now.pw_mcc, earlier.half_width, now.half_width
    if old is None or new is None:
        allowed, why = limits.max_drop, "checks.max_drop: no confidence interval"
    else:
        allowed, why = math.hypot(old, new), "both confidence intervals"
    return Check(
        "not_lower",
        drop <= allowed,
        drop,
        f"a drop of at most {allowed:.4g} ({why})",
        "see what changed since with `concord diff` between the two artifacts (model, corpus, settings, code); if it "
        "was meant, nothing",
        {
            "pw_mcc": now.pw_mcc,
            "pw_mcc_before": earlier.pw_mcc,
            "allowed": allowed,
            "run_before": earlier.run_id,
        },
    )
