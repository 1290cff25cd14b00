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
from sae_core.figures import svg
from sae_core.report_panels import NamedPanel, answer_panels, shown_in_curves, training_panels
from sae_core.report_records import VariantRecord
from sae_core.report_sections import PageTable, Section, answer_table, sections
from sae_core.report_table import MISSING, Row, missing_notes, number, percent, with_interval
from sae_core.similarity_results import SimilaritySummary
from sae_core.store import Artifact

_ENVIRONMENT = ("git_commit", "python", "torch", "transformers", "datasets", "numpy", "scipy", "numba", "pyarrow")
_VARIED = {"init": "the initial weights", "order": "the order of the training tokens"}

GLOSSARY = (
    (
        "PW-MCC",
        "Pairwise mean correlation coefficient: the decoder directions of two seeds are matched one to one so that the "
        "mean absolute cosine is largest (exact assignment), and that mean is averaged over all pairs of seeds. "
        "1: both found the same features, up to order and sign. Never compare it without its null.",
    ),
    (
        "95 % CI",
        "Interval over seeds (jackknife). Pairs share seeds, so the spread over pairs would be far too narrow. It says "
        "what other seeds of the same recipe would give, nothing about other text or another layer.",
    ),
    (
        "null",
        "What dictionaries score that share only their shape: one of each pair has its principal axes flipped at "
        "random, so that its Gram matrix and second moment stay as they are. Matching many directions in few "
        "dimensions gives much by chance alone.",
    ),
    (
        "kappa",
        "Agreement beyond chance, (PW-MCC − null) / (1 − null): 0 at chance, 1 for identical dictionaries. The "
        "number to compare variants of different size by.",
    ),
    ("alive", "PW-MCC matched among features that fired at least once on the held-out tokens; dead ones are left out."),
    ("signed", "PW-MCC with the cosine itself in place of its absolute value, under its own best matching."),
    (
        "explanation ρ",
        "Whether features found more consistently are explained more alike: rank correlation (Spearman) of a matched "
        "pair’s cosine with the similarity of its two explanations, frequency held constant; raw, without that. The "
        "two explanations come from disjoint halves of the held-out text.",
    ),
    (
        "lift",
        "How much more alike the explanations of matched features are than those of random pairs of equal frequency "
        "(cosine of sentence embeddings). 0: no more than chance.",
    ),
    (
        "L0, FVE, loss recovered, dead",
        "Quality on held-out tokens, mean over seeds: features active on a token; fraction of variance explained; how "
        "much of the language model’s next-token loss survives when it reads reconstructions (1: all of it, 0: as "
        "bad as zeros); share of features that never fired. Consistency means little without it.",
    ),
    (
        "Picking a winner",
        "The variant that agrees most was picked on these very seeds, so its value is a little too good: train it on "
        "new seeds before reporting it.",
    ),
)


@dataclass(frozen=True)
class PageFigure:
    """A panel as it stands on the page."""

    svg: Markup
    caption: str


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
    answer: PageTable
    missing: list[str]
    answer_figures: list[PageFigure]
    shown_note: str
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
    artifacts: Mapping[str, Artifact],
) -> str:
    """The page as one self-contained HTML file: no script, no font and no picture from elsewhere.

    Args:
        records: variants in the order of the study.
        rows: their rows of the table.
        artifacts: by name, for the provenance.
    """
    seeds = ", ".join(str(seed) for seed in study.seeds)
    page = Page(
        study=study.name,
        title=f"Do SAEs of {model.name} find the same features with another seed?",
        subtitle=f"Study {study.name} · {study.hook} · {_count(len(records), 'variant')} × {len(study.seeds)} seeds "
        f"({seeds}); a seed changes {' and '.join(_VARIED[what] for what in study.vary)}, nothing else",
        lead=lead(records),
        answer=answer_table(rows),
        missing=missing_notes(rows),
        answer_figures=_figures(answer_panels(records)),
        shown_note=_shown_note(records),
        variants=[PageVariant(r.key, _settings(r), sections(r)) for r in records],
        training_note=_training_note(study),
        training_figures=_figures(training_panels(records)),
        provenance_note="Every number above comes from these artifacts of the store, and they from those above them: "
        "the address names what an artifact is made of, the content digest what is in it.",
        provenance=provenance(artifacts),
        environment=environment_table(artifacts),
        settings=json.dumps(study.model_dump(mode="json"), indent=1),
        credit=model.corpus.credit,
    )
    loader = PackageLoader("sae_core", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(page=page) + "\n"


def lead(records: Sequence[VariantRecord]) -> str:
    """The answer in two or three sentences, for the variant that agrees most beyond chance."""
    best = min(records, key=lambda record: record.order)
    found = best.consistency.summary
    which = f"{best.key} agrees most beyond chance" if len(records) > 1 else best.key
    value = number(found.pw_mcc) if found.ci_low is None else with_interval(found.pw_mcc, found.ci_low, found.ci_high)
    kappa = "" if found.kappa_sign_flip is None else f" (kappa {number(found.kappa_sign_flip)})"
    text = f"{which}: PW-MCC {value}, where chance gives {number(found.null_sign_flip)}{kappa}."
    if found.shared_fraction:
        highest = max(found.shared_fraction, key=float)
        share = found.shared_fraction[highest]
        text += f" {percent(share, 0)} of matched pairs of features have a cosine of at least {highest}."
    return text + _explained(best.similarity.summary)


def _explained(found: SimilaritySummary) -> str:
    if found.lift is None:
        return ""
    more = "more" if found.lift >= 0 else "less"
    lift = number(abs(found.lift))
    text = f" Explanations of matched features are {lift} {more} alike than those of random pairs of equal frequency"
    if found.rho_partial is None:
        return text + "."
    moves, rho, interval = "rises" if found.rho_partial >= 0 else "falls", found.rho_partial, found.rho_partial_ci
    value = with_interval(rho, interval.low, interval.high, 2) if interval else number(rho, 2)
    return f"{text}; the similarity {moves} with the cosine (ρ {value})."


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
    return [PageFigure(Markup(svg(panel.panel, panel.caption)), panel.caption) for panel in panels]


def _shown_note(records: Sequence[VariantRecord]) -> str:
    shown = shown_in_curves(records)
    if len(shown) == len(records):
        return ""
    return f"The last three figures show the {len(shown)} of {len(records)} variants that agree most beyond chance."


def _settings(record: VariantRecord) -> str:
    own: dict[str, Any] = record.config.model_dump(mode="json", exclude_none=True)
    values = {name: own.pop(name) for name in ("architecture", "d_sae")} | own
    return " · ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _training_note(study: StudyConfig) -> str:
    training = study.training
    return (
        f"{training.n_steps:,} steps of {training.batch_size:,} tokens, learning rate {training.lr:g} (warm-up "
        f"{training.warmup_steps:,} steps, decay from {training.decay_start:.0%}), sparsity warm-up "
        f"{training.sparsity_warmup_steps:,} steps. Values are those of the training batch."
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
