"""What the page and the UI say about the versions of a model: all of them over time, and the last two compared.

Part of *report*.
"""

from collections.abc import Sequence

from sae_core.model_versions.results import AcrossVersions, VersionRow, VersionsSummary
from sae_core.report.numbers import MISSING, number, percent, with_interval
from sae_core.report.stability import PageTable, Section
from sae_core.report.table import SHARED_AT

_DIGEST = 12
_COMMIT = 8
Labelled = Sequence[tuple[str, VersionsSummary]]
"""Variants by their key."""


def versions_table(found: Labelled) -> PageTable:
    """Every version of some variants over time, a row each."""
    header = [
        "first made (UTC)", "model", "text", "code", "commit", "seeds", "PW-MCC [95\u00a0%\u00a0CI]", "null", "kappa",
        "differs from the one before in",
    ]  # fmt: skip
    rows = [[key, *_version(row, summary)] for key, summary in found for row in summary.versions]
    if len(found) == 1:
        return PageTable(header, [row[1:] for row in rows])
    return PageTable(["variant", *header], rows)


def _version(row: VersionRow, summary: VersionsSummary) -> list[str]:
    mark = " (now)" if row.is_current else " (compared)" if row.content == summary.compared_with else ""
    gone = [] if row.in_store else ["no longer in the store"]
    return [
        row.time[:16].replace("T", " ") + mark,
        _short(row.model, _DIGEST),
        _short(row.corpus, _DIGEST),
        row.code_version or MISSING,
        _short(row.commit, _COMMIT) + ("*" if (row.commit or "").endswith("-dirty") else ""),
        MISSING if row.n_runs is None else str(row.n_runs),
        with_interval(row.pw_mcc, row.ci_low, row.ci_high),
        number(row.null),
        number(row.kappa),
        "; ".join([*gone, *row.differs]),
    ]


def _short(digest: str | None, digits: int) -> str:
    return MISSING if digest is None else digest[:digits]


def across_table(found: Labelled) -> PageTable:
    """Agreement across the last two models, and within either, a row for each variant that could be compared."""
    header = [
        "variant", "across, other seed", "across, same seed", "within old", "within new",
        "difference [95\u00a0%\u00a0CI]", "null", f"new ≥\u00a0{SHARED_AT}", f"lost ≥\u00a0{SHARED_AT}",
    ]  # fmt: skip
    rows = [
        [
            key,
            number(across.pw_mcc_different_seed),
            number(across.pw_mcc_same_seed),
            number(across.within_old),
            number(across.within_new),
            with_interval(across.difference, across.difference_ci_low, across.difference_ci_high),
            number(across.null),
            percent(across.share_new.get(SHARED_AT)),
            percent(across.share_lost.get(SHARED_AT)),
        ]
        for key, summary in found
        if (across := summary.across) is not None
    ]
    return PageTable(header, rows)


def version_sections(found: Labelled) -> list[Section]:
    """The comparison, where there is one, and all versions."""
    compared = across_table(found)
    note = (
        "PW-MCC between SAEs of the old and the new model, by decoder, beside that of the seeds within either. The "
        "difference is that of pairs of another seed, less the mean within: near zero, the model's change changed the "
        "features no more than a seed does. Pairs of the same seed began with the same weights and saw the text in the "
        f"same order, so they may agree more. New: features on which the new seeds agree (≥ {SHARED_AT}) and that no "
        "old SAE has; lost: the other way round. Decoders of two models share axes only if the residual stream kept "
        "its basis, as fine-tuning nearly does and training from scratch does not."
    )
    sections = [Section("The last two models compared", compared, note)] if compared.rows else []
    title = "All versions"
    unproven = [key for key, summary in found if summary.across is not None and not summary.across.certified]
    about = "Each result that was ever materialized, by content. * made with changes that were not committed."
    if unproven:
        about += f" Matchings of {', '.join(unproven)} ended before the proof: a lower bound."
    return [*sections, Section(title, versions_table(found), about, "remark")]


def version_conclusions(found: Labelled) -> list[str]:
    """A sentence a variant: whether the features changed with the model."""
    texts = []
    for key, summary in found:
        prefix = f"{key}: " if len(found) > 1 else ""
        texts.append(prefix + conclusion(summary))
    return list(dict.fromkeys(texts))


def conclusion(summary: VersionsSummary) -> str:
    """What the comparison says, in a sentence or two, with what a reader must know."""
    text = f"Nothing is compared: {summary.not_compared}." if summary.across is None else _verdict(summary.across)
    gone = summary.n_missing
    missing = [f"{gone} of {summary.n_versions} versions {'is' if gone == 1 else 'are'} no longer in the store"]
    notes = [*summary.cautions, *(missing if gone else [])]
    return text + "".join(f" {note[0].upper()}{note[1:]}." for note in notes)


def _verdict(across: AcrossVersions) -> str:
    low, high = across.difference_ci_low, across.difference_ci_high
    value = with_interval(across.difference, low, high)
    within = (across.within_old + across.within_new) / 2
    numbers = (
        f"SAEs of the two models agree {number(across.pw_mcc_different_seed)}, seeds of one model {number(within)}, "
        f"chance {number(across.null)}"
    )
    if low is None or high is None:
        return f"{numbers}; whether the difference of {value} is more than chance is not known: {across.ci_reason}."
    if high < 0:
        return f"The features changed with the model, by more than seeds differ: {numbers} (difference {value})."
    if low > 0:
        return f"SAEs of the two models agree more than seeds of one: {numbers} (difference {value})."
    return (
        f"No change of the features beyond what another seed changes is seen: {numbers} (difference {value}, which "
        "includes zero)."
    )
