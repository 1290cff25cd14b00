"""Tables of the page about agreement: definitions, chance levels, stable core and consensus, pairs of variants.

Part of *report*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sae_core.config import Result
from sae_core.consistency.results import ConsistencySummary
from sae_core.consistency.statistics import VariantComparison, compare_variants
from sae_core.report.evidence import why_no_groups
from sae_core.report.numbers import MISSING, number, percent, with_interval
from sae_core.report.records import ConsistencyRecord, VariantRecord
from sae_core.report.table import why_missing


@dataclass(frozen=True)
class PageTable:
    """A table of ready text; the first column names the row."""

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A table about one variant, under a title."""

    title: str
    table: PageTable
    note: str = ""
    kind: str = ""
    """How the page sets it: ``text`` for columns of prose, ``remark`` for a last one."""


class Comparison(Result):
    """Two variants of a study compared, with the seeds as the units."""

    variant_a: str
    variant_b: str
    pw_mcc: VariantComparison
    """Of PW-MCC."""
    kappa: VariantComparison | None
    """Of PW-MCC corrected for the chance level of each pair of seeds; None where there is none."""
    independent: bool
    """Whether the seeds of both are; otherwise neither interval nor p-value means anything."""


def compare_all(records: Sequence[VariantRecord]) -> list[Comparison]:
    """Every pair of variants, in the order of the study."""
    return [
        Comparison(
            variant_a=a.key,
            variant_b=b.key,
            pw_mcc=compare_variants(a.consistency.pair_values("mcc"), b.consistency.pair_values("mcc")),
            kappa=_compare_kappa(a.consistency, b.consistency),
            independent=not (
                a.consistency.summary.shared_initialisation or b.consistency.summary.shared_initialisation
            ),
        )
        for a, b in combinations(records, 2)
    ]


def comparison_section(comparisons: Sequence[Comparison]) -> Section | None:
    """The differences between variants; None where there is one variant only."""
    if not comparisons:
        return None
    header = [
        "first − second", "PW-MCC [95 % CI]", "p", "kappa [95 % CI]", "p of kappa", "smallest p possible",
    ]  # fmt: skip
    rows = [[f"{found.variant_a} − {found.variant_b}", *_compared(found)] for found in comparisons]
    reasons = dict.fromkeys(found.pw_mcc.reason for found in comparisons if found.pw_mcc.reason)
    note = (
        "p: seeds given to the two variants in all ways, two-sided; no difference, however large, can give less than "
        "the smallest possible. Compare kappa where the variants differ in size: chance differs then too."
    )
    if len(comparisons) > 1:
        note += f" Of {len(comparisons)} comparisons one at 0.05 is no surprise: multiply p by their number."
    if any(not found.exact and not found.reason for found in (c.pw_mcc for c in comparisons)):
        note += " Where there are too many ways, a random sample of them was tried."
    note += "".join(f" {MISSING} {reason}." for reason in reasons)
    if any(not found.independent for found in comparisons):
        note += f" {MISSING} seeds of a variant that share an initialisation are not independent."
    return Section("Differences between variants", PageTable(header, rows), note)


def _compared(found: Comparison) -> list[str]:
    parts = []
    for compared in (found.pw_mcc, found.kappa):
        if compared is None:
            parts += [MISSING, MISSING]
            continue
        low, high = (compared.ci_low, compared.ci_high) if found.independent else (None, None)
        parts += [
            with_interval(compared.difference, low, high),
            number(compared.p_value if found.independent else None),
        ]
    return [*parts, number(found.pw_mcc.smallest_p if found.independent else None)]


def _compare_kappa(a: ConsistencyRecord, b: ConsistencyRecord) -> VariantComparison | None:
    values = []
    for record in (a, b):
        null = record.pair_values("null_sign_flip")
        corrected = (record.pair_values("mcc") - null) / np.where(null < 1 - 1e-9, 1 - null, np.nan)
        if not np.isfinite(corrected[~np.eye(len(corrected), dtype=bool)]).all():
            return None
        values.append(corrected)
    return compare_variants(values[0], values[1])


def definitions(found: ConsistencySummary) -> Section:
    """The same seeds under other definitions of agreement."""
    rows = [
        ["PW-MCC: |cosine| of decoders, one to one", number(found.pw_mcc), ""],
        ["the same among alive features", number(found.pw_mcc_alive), found.alive_reason or ""],
        ["signed cosine", *_or_why(found, found.pw_mcc_signed, "pw_mcc_signed")],
        ["duplicates inside a seed merged", *_or_why(found, found.pw_mcc_merged, "pw_mcc_merged")],
        ["decoder and encoder, mean (joint)", *_or_why(found, found.joint_mean, "joint_mean")],
        ["largest cosine, not one to one (MMCS), first → second", number(found.mmcs_forward), ""],
        ["the same, second → first", number(found.mmcs_backward), ""],
    ]
    for tau, share in found.shared_fraction.items():
        joint, both = ((shares or {}).get(tau) for shares in (found.shared_fraction_joint, found.shared_fraction_both))
        rows.append(
            [f"pairs ≥ {tau}: decoder; joint; both", f"{percent(share)}; {percent(joint)}; {percent(both)}", ""]
        )
    rows.append(["matched pairs with a negative cosine", percent(found.share_negative), ""])
    note = "Papers differ in what they call consistency, and the numbers with them: compare like with like."
    return Section(
        "The same seeds under other definitions", _with_remarks(["definition", "value"], rows), note, "remark"
    )


def chance(found: ConsistencySummary) -> Section:
    """The chance levels, and PW-MCC corrected for each."""
    untrained = number(found.null_untrained)
    nulls = (
        ("uniformly random directions (N0)", found.null_isotropic, found.kappa_isotropic, "null_isotropic"),
        ("same second moment (N1)", found.null_second_moment, found.kappa_second_moment, "null_second_moment"),
        ("principal axes flipped (N3)", found.null_sign_flip, found.kappa_sign_flip, "null_sign_flip"),
    )
    rows = [
        [name, number(null), number(kappa), "" if null is not None else why_missing(found, field)]
        for name, null, kappa, field in nulls
    ]
    why = "" if found.null_untrained is not None else why_missing(found, "null_untrained")
    rows.append(["the seeds themselves before training (N2)", untrained, "", why])
    rows.append(["random directions, MMCS", number(found.null_mmcs_isotropic), "", ""])
    note = f"Independent seeds: {'NO' if found.shared_initialisation else 'yes'}; {found.shared_initialisation_reason}."
    return Section("Chance levels", _with_remarks(["null", "PW-MCC", "kappa"], rows), note, "remark")


def activations(record: ConsistencyRecord) -> Section | None:
    """Whether features that decoders match fire alike; None when it was not measured."""
    rows = [
        [
            f"{pair.run_a} and {pair.run_b}",
            number(pair.mean_correlation),
            number(pair.mean_jaccard),
            percent(pair.share_partner_best),
            number(pair.pw_mcc_activations),
            percent(pair.share_same_partner),
            pair.reason or f"{pair.n_compared:,} of {pair.n_matched:,} pairs vary on {pair.n_tokens:,} tokens",
        ]
        for pair in record.activations
    ]
    header = ["pair", "correlation", "Jaccard", "partner best", "MCC of activations", "same partner", "remark"]
    note = (
        "Matched by decoder, compared by activation on the same held-out tokens: mean absolute correlation, and tokens "
        "on which both fire of those on which one does. Partner best: no other of the five nearest features by decoder "
        "correlates better. Then matched by activation instead, and how many pairs that matching shares."
    )
    return Section("Do matched features fire alike?", PageTable(header, rows), note, "remark") if rows else None


def stability(found: ConsistencySummary) -> list[Section]:
    """What all seeds share: cycles, stable core, duplicates, consensus."""
    cycles = _or_why(found, found.cycle_consistency, "cycle_consistency")
    rows = [["chance to end at the same feature by way of a third seed (cycle consistency)", *cycles]]
    rows += [*_core(found), *_duplicates(found), *_consensus(found)]
    return [Section("What all seeds share", _with_remarks(["what", "value"], rows), kind="remark")]


def _core(found: ConsistencySummary) -> list[list[str]]:
    if found.core is None:
        return [["stable core", MISSING, why_missing(found, "core")]]
    return [
        [
            f"stable core: in every seed once, |cosine| ≥ {level.tau:g}",
            f"{level.n_core:,} ({percent(level.share)})",
            f"by chance {number(level.chance, 1)}; {level.n_split:,} split (several features of one seed), "
            f"{level.n_partial:,} partial (not in every seed)",
        ]
        for level in found.core.levels
    ]


def _duplicates(found: ConsistencySummary) -> list[list[str]]:
    if found.uniqueness is None or found.n_duplicates is None:
        return [["features left after merging duplicates", MISSING, why_missing(found, "n_duplicates")]]
    left = ", ".join(percent(share) for share in found.uniqueness)
    copies = ", ".join(f"{n:,}" for n in found.n_duplicates)
    return [["features left after merging duplicates, by seed", left, f"features with a duplicate: {copies}"]]


def _consensus(found: ConsistencySummary) -> list[list[str]]:
    consensus = found.consensus
    if consensus is None:
        return [["consensus dictionary", MISSING, why_missing(found, "consensus")]]
    remark = f"each in {consensus.min_support} seeds or more, {consensus.n_full_support:,} in all"
    rows = [["consensus dictionary: features", f"{consensus.n_features:,}", remark]]
    groups = consensus.disjoint_groups
    if groups is None:
        return [*rows, ["consensuses of disjoint groups of seeds", MISSING, why_no_groups(found)]]
    sizes = " and ".join(str(size) for size in groups.group_sizes)
    better = f"groups of {sizes}; better than the control in {groups.n_splits_better} of {groups.n_splits} splits"
    empty = f"; {groups.n_splits_empty} further without a consensus" if groups.n_splits_empty else ""
    return [
        *rows,
        ["MCC of consensuses of disjoint groups", number(groups.consensus_mcc), better + empty],
        ["the same of single seeds, equally many features", number(groups.single_restricted_mcc), "the fair control"],
        ["the same of single seeds, all features", number(groups.single_mcc), ""],
    ]


def _or_why(found: ConsistencySummary, value: float | None, field: str) -> list[str]:
    return [number(value), "" if value is not None else why_missing(found, field)]


def _with_remarks(header: list[str], rows: list[list[str]]) -> PageTable:
    """A table whose last column are remarks, so that an empty one still keeps numbers to the right."""
    return PageTable([*header, "remark" if any(row[-1] for row in rows) else ""], rows)
