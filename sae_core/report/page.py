"""The page of a report: the answer first, then how to read it, every variant, and where the numbers come from.

Part of *report*. The same records give the same bytes: no dates, wall times or machine names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sae_core.config import ModelConfig, StudyConfig
from sae_core.model_versions.results import VersionsSummary
from sae_core.report.evidence import ReportPanels
from sae_core.report.explanation_tables import conclusions, measures_section, published_section, scores_section, trend
from sae_core.report.figures import EmptyPanel, svg
from sae_core.report.glossary import GLOSSARY, SHARED_INITIALISATION
from sae_core.report.numbers import MISSING, number, percent, with_interval
from sae_core.report.panels import NamedPanel, shown_in_curves
from sae_core.report.records import VariantRecord
from sae_core.report.sections import answer_table, sections
from sae_core.report.stability import Comparison, PageTable, Section, comparison_section
from sae_core.report.table import DEFINITION, SHARED_AT, Row
from sae_core.report.text import missing_notes
from sae_core.report.version_tables import version_conclusions, version_sections
from sae_core.similarity.results import MeasureSummary
from sae_core.store import Artifact

_ENVIRONMENT = ("git_commit", "python", "torch", "transformers", "datasets", "numpy", "scipy", "numba", "pyarrow")
_VARIED = {"init": "the initial weights", "order": "the order of the training tokens", "data": "the text"}


@dataclass(frozen=True)
class PageFigure:
    """A panel as it stands on the page."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class PageWarning:
    """What readers must know before they read a number."""

    title: str
    text: str


@dataclass(frozen=True)
class PageVariant:
    """Everything about one variant."""

    key: str
    settings: str
    sections: list[Section]


@dataclass(frozen=True)
class Page:
    """What the template prints."""

    study: str
    title: str
    subtitle: str
    lead: str
    warnings: list[PageWarning]
    answer: PageTable
    definition: str
    missing: list[str]
    answer_figures: list[PageFigure]
    answer_gaps: list[str]
    shown_note: str
    differences: Section | None
    evidence_figures: list[PageFigure]
    evidence_gaps: list[str]
    conclusions: list[str]
    explanation_sections: list[Section]
    explanation_figures: list[PageFigure]
    explanation_gaps: list[str]
    version_note: str
    version_conclusions: list[str]
    version_sections: list[Section]
    version_figures: list[PageFigure]
    variants: list[PageVariant]
    training_note: str
    training_figures: list[PageFigure]
    provenance_note: str
    provenance: PageTable
    environment: PageTable
    settings: str
    credit: str
    glossary: tuple[tuple[str, str], ...] = GLOSSARY
    dash: str = MISSING


def render_page(
    study: StudyConfig,
    model: ModelConfig,
    records: Sequence[VariantRecord],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    panels: ReportPanels,
    artifacts: Mapping[str, Artifact],
) -> str:
    """The page as one self-contained HTML file: no script, no font and no picture from elsewhere.

    Args:
        records: variants in the order of the study.
        rows: their rows of the table.
        comparisons: of every pair of them.
        panels: its figures.
        artifacts: by name, for the provenance.
    """
    seeds = ", ".join(str(seed) for seed in study.seeds)
    page = Page(
        study=study.name,
        title=f"Do SAEs of {model.name} find the same features with another seed?",
        subtitle=f"Study {study.name} · {study.hook} · {_count(len(records), 'variant')} × {len(study.seeds)} seeds "
        f"({seeds}); a seed changes {' and '.join(_VARIED[what] for what in study.vary)}, nothing else",
        lead=lead(records),
        warnings=_warnings(records),
        answer=answer_table(rows),
        definition=f"PW-MCC: {DEFINITION}, mean over pairs of seeds. Cosine ≥ {SHARED_AT}: share of matched pairs; "
        "joint: by the mean of decoder and encoder cosine. Core: features of all seeds that choose each other.",
        missing=missing_notes(rows),
        answer_figures=_figures(panels.answer),
        answer_gaps=_nothing_to_show(panels.answer),
        shown_note=_shown_note(records),
        differences=comparison_section(comparisons),
        evidence_figures=_figures(panels.evidence),
        evidence_gaps=_nothing_to_show(panels.evidence),
        conclusions=conclusions(min(records, key=lambda record: record.order)),
        explanation_sections=_explanation_sections(records),
        explanation_figures=_figures(panels.explanations),
        explanation_gaps=_nothing_to_show(panels.explanations),
        version_note=_version_note(records),
        version_conclusions=version_conclusions(_several_versions(records)),
        version_sections=version_sections(_several_versions(records)) if _several_versions(records) else [],
        version_figures=_figures(panels.versions),
        variants=[PageVariant(r.key, _settings(r), sections(r)) for r in records],
        training_note=_training_note(study),
        training_figures=_figures(panels.training),
        provenance_note="Every number above comes from these artifacts of the store, and they from those above them: "
        "the address names what an artifact is made of, the content digest what is in it.",
        provenance=provenance(artifacts),
        environment=environment_table(artifacts),
        settings=json.dumps(study.model_dump(mode="json"), indent=1),
        credit=model.corpus.credit,
    )
    loader = PackageLoader("sae_core.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(page=page) + "\n"


def lead(records: Sequence[VariantRecord]) -> str:
    """The answer in two or three sentences, for the variant that agrees most beyond chance."""
    best = min(records, key=lambda record: record.order)
    found = best.consistency.summary
    which = f"{best.key} agrees most beyond chance" if len(records) > 1 else best.key
    value = number(found.pw_mcc) if found.ci_low is None else with_interval(found.pw_mcc, found.ci_low, found.ci_high)
    beyond = best.consistency.kappa
    kappa = "" if beyond is None else f" (kappa {number(beyond)})"
    if found.shared_initialisation:
        which = f"{which}, but the seeds share an initialisation and are not independent"
    text = f"{which}: PW-MCC {value}, where chance gives {number(best.consistency.null)}{kappa}."
    if found.shared_fraction:
        highest = max(found.shared_fraction, key=float)
        share = found.shared_fraction[highest]
        text += f" {percent(share, 0)} of matched pairs of features have a cosine of at least {highest}."
    return text + _explained(best.similarity.first)


def _explained(found: MeasureSummary) -> str:
    if found.lift is None:
        return ""
    more = "more" if found.lift >= 0 else "less"
    lift = number(abs(found.lift))
    text = f" Explanations of matched features are {lift} {more} alike than those of random pairs of equal frequency"
    if found.rho_partial is None:
        return text + "."
    rho, interval = found.rho_partial, found.rho_partial_ci
    value = with_interval(rho, interval.low, interval.high, 2) if interval else number(rho, 2)
    p = "" if found.permutation_p is None else f", p {number(found.permutation_p)}"
    return f"{text}; at equal frequency {trend(found)} with the cosine (ρ {value}{p})."


def _explanation_sections(records: Sequence[VariantRecord]) -> list[Section]:
    scored = scores_section(records)
    best = min(records, key=lambda record: record.order)
    return [measures_section(records), published_section(best), *([scored] if scored else [])]


def provenance(artifacts: Mapping[str, Artifact]) -> PageTable:
    """What the report was made from: its artifacts, and first what they share (contexts, activations)."""
    shared = {
        (entry.kind, entry.fingerprint): entry.content
        for artifact in artifacts.values()
        for entry in artifact.manifest.upstream.values()
        if entry.kind in ("contexts", "activations")
    }
    known = [
        [kind, f"{kind}/{fingerprint}", content[:16], MISSING]
        for (kind, fingerprint), content in sorted(shared.items())
    ]
    known.sort(key=lambda row: row[0] != "contexts")
    rows = [
        [name, f"{made.manifest.kind}/{made.manifest.fingerprint}", made.content[:16], made.manifest.code_version]
        for name, made in artifacts.items()
    ]
    return PageTable(["artifact", "address in the store", "content digest", "code version"], [*known, *rows])


def environment_table(artifacts: Mapping[str, Artifact]) -> PageTable:
    """Git commit and package versions; several where artifacts were made by several."""
    found = {
        name: sorted(
            {made.manifest.environment[name] for made in artifacts.values() if name in made.manifest.environment}
        )
        for name in _ENVIRONMENT
    }
    return PageTable(["what", "version"], [[name.replace("_", " "), ", ".join(v)] for name, v in found.items() if v])


def _figures(panels: Sequence[NamedPanel]) -> list[PageFigure]:
    # The SVG is our own and escapes what it prints.
    return [
        PageFigure(Markup(svg(named.panel, named.caption)), named.caption)
        for named in panels
        if not named.shows_nothing
    ]


def _nothing_to_show(panels: Sequence[NamedPanel]) -> list[str]:
    """In place of the figures that have nothing to show: what they are, and why."""
    return [
        f"{panel.title}: {' '.join(panel.reason.split())}"
        for panel in (named.panel for named in panels)
        if isinstance(panel, EmptyPanel)
    ]


def _warnings(records: Sequence[VariantRecord]) -> list[PageWarning]:
    """One box for shared initialisations, one for numbers without a proof; nothing where all is well."""
    flagged = [record for record in records if record.consistency.summary.shared_initialisation]
    unproven = [record for record in records if not record.consistency.summary.certified]
    found = []
    if flagged:
        why = " ".join(f"{r.key}: {r.consistency.summary.shared_initialisation_reason}." for r in flagged)
        found.append(PageWarning("The seeds of a variant are not independent", f"{why} {SHARED_INITIALISATION}"))
    if unproven:
        bounds = "; ".join(f"{r.key} at most {number(r.consistency.summary.upper_bound, 4)}" for r in unproven)
        stopped = "; ".join(dict.fromkeys(why for r in unproven for why in r.consistency.summary.stopped))
        why = f" ({stopped})" if stopped else ""
        text = f"Matchings ended before the proof that they are the best{why}, so PW-MCC is a lower bound: {bounds}."
        found.append(PageWarning("Not every number is proven", text))
    return found


def _shown_note(records: Sequence[VariantRecord]) -> str:
    shown = shown_in_curves(records)
    if len(shown) == len(records):
        return ""
    return f"All figures but the first show the {len(shown)} of {len(records)} variants that agree most beyond chance."


def _settings(record: VariantRecord) -> str:
    own: dict[str, Any] = record.config.model_dump(mode="json", exclude_none=True)
    values = {name: own.pop(name) for name in ("architecture", "d_sae") if name in own} | own
    return " · ".join(f"{name} {_setting(value)}" for name, value in values.items())


def _setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _several_versions(records: Sequence[VariantRecord]) -> list[tuple[str, VersionsSummary]]:
    """The variants that have more than one version."""
    known = [(record.key, record.versions.summary) for record in records if record.versions is not None]
    return [(key, summary) for key, summary in known if summary.n_versions > 1]


def _version_note(records: Sequence[VariantRecord]) -> str:
    """In place of the section, where no variant has more than one version and the history is known."""
    if _several_versions(records) or all(record.versions is None for record in records):
        return ""
    return (
        "These are the first results of the study: when the model changes, the features of its SAEs before and after "
        "are compared here."
    )


def _training_note(study: StudyConfig) -> str:
    training = study.training
    if training is None:
        return "Nothing was trained here: the SAEs of all variants come from elsewhere."
    return (
        f"{training.n_steps:,} steps of {training.batch_size:,} tokens, learning rate {training.lr} (warm-up "
        f"{training.warmup_steps:,} steps, decay from {training.decay_start:.0%}), sparsity warm-up "
        f"{training.sparsity_warmup_steps:,} steps. Values are those of the training batch."
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
