"""The report of a study: one table, one figure, one page.

Last stage of the flow: evaluations, *consistency* and *explanation similarity* of every variant -> **report**.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.config import ModelConfig, StudyConfig
from sae_core.report.evidence import ReportPanels, report_panels
from sae_core.report.figures import pdf_pages, png, small_png
from sae_core.report.numbers import Value
from sae_core.report.page import lead, render_page
from sae_core.report.records import VariantRecord, read_variant
from sae_core.report.stability import Comparison, compare_all
from sae_core.report.table import TYPES, table_row
from sae_core.report.text import markdown_rows, terminal_rows
from sae_core.store import Artifact
from sae_core.whole_files import write_whole

_SMALL_BYTES = 150_000
_FORMAT_VERSION = 3


def write_report(
    folder: Path, study: StudyConfig, model: ModelConfig, variants: Mapping[str, Mapping[str, Artifact]]
) -> dict[str, Any]:
    """Write the report of a study into a folder.

    ``report.html`` (one self-contained page), ``report.png`` (the answer as a figure), ``agreement.png`` (its first
    panel: PW-MCC of each variant), ``evidence.png`` (what stands behind it), ``explanations.png`` (whether consistent
    features mean the same, in the variant that agrees most), ``figures.pdf`` (a page for each panel, for papers),
    ``report_small.png`` (the answer below 150 kB), ``table.parquet`` and ``table.json`` (a record a
    variant), ``summary.json`` (the table, comparisons of variants, the settings and where it all comes from).

    Args:
        variants: for each variant key ``consistency``, ``explanation_similarity``, ``model_versions`` where the history
            is known, per seed ``sae seed 0``, ``evaluation seed 0``, and where there are any ``explanations seed 0``,
            ``scores seed 0``, ...

    Returns:
        The numbers of the variant that agrees most beyond chance.

    Raises:
        ValueError: if there is no variant.
        KeyError: if an artifact of a variant is missing; the message names it.
    """
    if not variants:
        raise ValueError(f"study {study.name}: a report needs at least one variant, got none; materialize one first")
    records = [read_variant(study, key, artifacts) for key, artifacts in variants.items()]
    rows = [table_row(record) for record in records]
    artifacts = {f"{key} {name}": made for key, found in variants.items() for name, made in found.items()}
    comparisons, panels = compare_all(records), report_panels(records)
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(TYPES.items())))
    summary = _summary(study, model, records, rows, comparisons, artifacts)
    page = render_page(study, model, records, rows, comparisons, panels, artifacts)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "table.json", _json(rows))
    _write(folder / "summary.json", _json(summary))
    _write(folder / "report.html", page.encode())
    _write_pictures(folder, panels, len(records))
    write_whole(folder / "table.parquet", lambda part: pq.write_table(table, part))
    return _headline(records, rows)


def _write_pictures(folder: Path, panels: ReportPanels, n_variants: int) -> None:
    answer, evidence = ([named.panel for named in group] for group in (panels.answer, panels.evidence))
    known = [named.panel for named in panels.evidence if not named.shows_nothing]
    _write(folder / "report.png", png(answer, dpi=240))
    _write(folder / "agreement.png", png(answer[:1], columns=1, dpi=200, inches=(7.0, 1.5 + 0.35 * n_variants)))
    _write(folder / "report_small.png", small_png(answer, max_bytes=_SMALL_BYTES))
    _write(folder / "evidence.png", png(known or evidence, dpi=200))
    _write(folder / "explanations.png", png([named.panel for named in panels.explanations], dpi=200))
    _write(folder / "figures.pdf", pdf_pages([named.panel for named in panels.shown()]))


def terminal_table(folder: Path) -> str:
    """The table of a report as plain text, at most 110 columns wide, with the reasons for missing values below."""
    return terminal_rows(_read_rows(folder))


def markdown_table(folder: Path) -> str:
    """The table of a report as Markdown, with the reasons for missing values below."""
    return markdown_rows(_read_rows(folder))


def _read_rows(folder: Path) -> list[dict[str, Value]]:
    path = folder / "table.json"
    if not path.is_file():
        raise FileNotFoundError(f"no table.json in {folder}; materialize the report of the study first")
    rows: list[dict[str, Value]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _summary(
    study: StudyConfig,
    model: ModelConfig,
    records: Sequence[VariantRecord],
    rows: Sequence[Mapping[str, Value]],
    comparisons: Sequence[Comparison],
    artifacts: Mapping[str, Artifact],
) -> dict[str, Any]:
    return {
        "format_version": _FORMAT_VERSION,
        "study": study.name,
        "model": model.name,
        "hook": study.hook,
        "seeds": study.seeds,
        "vary": study.vary,
        "answer": lead(records),
        "credit": model.corpus.credit,
        "variants": list(rows),
        "comparisons": [found.model_dump(mode="json") for found in comparisons],
        "artifacts": {
            name: {"kind": made.manifest.kind, "fingerprint": made.manifest.fingerprint, "content": made.content}
            for name, made in artifacts.items()
        },
    }


def _headline(records: Sequence[VariantRecord], rows: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    """Flat numbers for the UI, which plots them over time: how many variants, and those of the one that agrees most."""
    best = min(range(len(records)), key=lambda place: records[place].order)
    row = rows[best]
    return {
        "n_variants": len(rows),
        "n_seeds": row["seeds"],
        "highest_variant": row["variant"],
        "highest_pw_mcc": row["PW-MCC"],
        "highest_ci_low": row["CI low"],
        "highest_ci_high": row["CI high"],
        "highest_null": row["null"],
        "highest_kappa": row["kappa"],
        "highest_shared": row["shared 0.7"],
        "highest_core": row["core 0.7"],
        "n_not_independent": sum(record.consistency.summary.shared_initialisation for record in records),
        "highest_explanation_rho": row["explanation rho"],
        "highest_lift": row["lift"],
        "highest_auc": row["AUC"],
        "highest_detection": row["detection"],
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))
