import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sae_core.chain import make_report
from sae_core.config import ConsistencyConfig, StudyConfig
from sae_core.consistency import consistency
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, FEATURE_SCHEMA
from sae_core.report.explanation_tables import measures_table
from sae_core.report.figures import small_png, svg
from sae_core.report.numbers import evenly_spaced, number, per_million, percent, with_interval
from sae_core.report.page import provenance
from sae_core.report.panels import answer_panels
from sae_core.report.pictures import (
    compare_figure,
    consistency_figure,
    core_figure,
    over_training_figure,
    similarity_figure,
    write_compare_figure,
)
from sae_core.report.published_bins import PUBLISHED_BINS
from sae_core.report.reading import (
    markdown_contexts,
    markdown_explanations,
    markdown_measures,
    markdown_published,
    markdown_scores,
)
from sae_core.report.records import PairActivations, SimilarityRecord, read_variant
from sae_core.report.sections import sections
from sae_core.report.stability import activations, compare_all, comparison_section
from sae_core.report.table import warnings
from sae_core.report.text import missing_notes, terminal_rows
from sae_core.report.writing import markdown_table, terminal_table, write_report
from sae_core.scoring.results import SCORES
from sae_core.store import ArtifactStore

from .small_study import MODEL, make_variants, planted_runs, study_config

FILES = [
    "agreement.png",
    "evidence.png",
    "explanations.png",
    "figures.pdf",
    "report.html",
    "report.png",
    "report_small.png",
    "summary.json",
    "table.json",
    "table.parquet",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def study():
    return study_config([0, 1, 2])


@pytest.fixture(scope="module")
def variants(store, study):
    return make_variants(store, study)


@pytest.fixture(scope="module")
def report(variants, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(folder, study, MODEL, variants)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Two seeds, no loss recovered, no explanation, no checkpoint, nothing of consistency that can be left out."""
    study, folder = study_config([0, 1]), tmp_path_factory.mktemp("bare")
    store = ArtifactStore(tmp_path_factory.mktemp("bare_store"))
    least = ConsistencyConfig(n_null_draws=0, signed=False, joint=False, merged=False, core=False, consensus=False)
    found = make_variants(store, study, with_loss=False, explained=False, checkpoints=False, config=least, scored=False)
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        write_report(folder, study, MODEL, found)
    return folder


def draw_nothing(patch):
    """Leave out the pictures, which take most of the time and are looked at elsewhere."""
    for name in ("png", "small_png", "pdf_pages"):
        patch.setattr(f"sae_core.report.writing.{name}", lambda *_, **__: b"")
    patch.setattr("sae_core.report.page.svg", lambda *_: "<svg></svg>")


@pytest.fixture
def undrawn(monkeypatch):
    draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def compared():
    """Two SAEs of which nobody knows how often their features fire."""
    runs = [replace(run, frequency=None) for run in planted_runs(2, 0.9, seed=3)[0]]
    return consistency(runs, ConsistencyConfig(n_null_draws=1))


class _Page(HTMLParser):
    """Every tag is closed in its order; text, and what is loaded from elsewhere."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "path", "use"})

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.loaded, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.loaded += [value for name, value in attrs if name in ("src", "data") or (tag == "link" and name == "href")]
        self.ids += [names["id"]] if "id" in names else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(report):
    return _Page((report[0] / "report.html").read_text())


def test_a_report_is_these_files_and_no_leftovers(report):
    assert sorted(path.name for path in report[0].iterdir()) == FILES


def test_the_same_records_give_the_same_bytes(report, variants, study, tmp_path):
    write_report(tmp_path, study, MODEL, variants)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (report[0] / name).read_bytes(), name


def test_a_table_row_holds_means_over_seeds_and_the_numbers_of_the_summaries(report, variants):
    row = json.loads((report[0] / "table.json").read_text())[0]
    consistent = json.loads((variants["topk-d64-k4"]["consistency"].path / "summary.json").read_text())
    similar = json.loads((variants["topk-d64-k4"]["explanation_similarity"].path / "summary.json").read_text())
    explained = next(each for each in similar["measures"] if each["measure"] == similar["primary"])
    assert row["variant"] == "topk-d64-k4"
    assert row["seeds"] == 3
    assert row["L0"] == pytest.approx(5.0)  # 4, 5, 6
    assert row["FVE"] == pytest.approx(0.7)  # 0.8, 0.7, 0.6
    assert row["loss recovered"] == pytest.approx(0.9)  # (8 - 3.5) / (8 - 3)
    assert row["dead"] == pytest.approx(3 / 64)
    assert row["PW-MCC"] == consistent["pw_mcc"]
    assert (row["CI low"], row["CI high"]) == (consistent["ci_low"], consistent["ci_high"])
    assert (row["null"], row["null kind"]) == (consistent["null_sign_flip"], "sign flip")
    assert row["kappa"] == consistent["kappa_sign_flip"]
    assert "decoder rows" in row["definition"]
    assert row["shared 0.7"] == consistent["shared_fraction"]["0.7"]
    assert row["joint 0.7"] == consistent["shared_fraction_joint"]["0.7"]
    assert row["both 0.7"] == consistent["shared_fraction_both"]["0.7"]
    at_07 = next(level for level in consistent["core"]["levels"] if level["tau"] == 0.7)
    assert (row["core 0.7"], row["core share 0.7"]) == (at_07["n_core"], at_07["share"])
    assert row["warning"] is None
    assert row["explanation rho"] == explained["rho_partial"]
    assert row["rho low"] == explained["rho_partial_ci"]["low"]
    assert row["raw rho"] == explained["rho"]
    assert row["rho p"] == explained["permutation_p"]
    assert row["lift"] == explained["lift"]
    assert (row["AUC"], row["AUC shuffled"]) == (explained["auc"], explained["auc_shuffled"])
    assert row["noise ceiling"] == explained["noise_ceiling"]
    assert row["measure"] == "embedding:lexical"
    assert row["detection"] == pytest.approx(0.8)
    assert row["missing"] is None


def test_the_parquet_table_is_the_json_table(report):
    assert pq.read_table(report[0] / "table.parquet").to_pylist() == json.loads((report[0] / "table.json").read_text())


def test_the_headline_is_the_variant_that_agrees_most_beyond_chance(report):
    folder, headline = report
    rows = json.loads((folder / "table.json").read_text())
    best = max(rows, key=lambda row: row["kappa"])
    assert headline["highest_variant"] == best["variant"] == "topk-d64-k4"
    assert headline["highest_kappa"] == best["kappa"]
    assert headline["n_variants"] == 2
    assert all(not isinstance(value, (dict, list)) for value in headline.values())


def test_missing_values_are_missing_everywhere_and_say_why(bare):
    row = json.loads((bare / "table.json").read_text())[0]
    gone = (
        "loss recovered", "CI low", "CI high", "explanation rho", "rho low", "rho high", "raw rho", "lift", "rho p",
        "AUC", "AUC shuffled", "noise ceiling", "detection", "PW-MCC signed", "joint 0.7", "both 0.7",
        "core 0.7", "core share 0.7",
    )  # fmt: skip
    assert [name for name in gone if row[name] is not None] == []
    assert "two runs make one pair" in row["missing"]
    assert "loss recovered of seed 0, seed 1: not measured" in row["missing"]
    assert "0 of 64 matched pairs are explained on both sides" in row["missing"]
    assert pq.read_table(bare / "table.parquet")["lift"].null_count == 2
    text = _Page((bare / "report.html").read_text()).text
    assert max(len(line) for line in terminal_table(bare).splitlines()) <= 110
    for where in (text, " ".join(terminal_table(bare).split()), markdown_table(bare)):
        assert "two runs make one pair" in where
        assert "[–]" in where
        assert not re.search(r"\b(nan|None|inf)\b", where, re.IGNORECASE)
    assert "no matched pair is explained" in text


def test_a_null_that_was_not_drawn_is_replaced_by_random_directions_and_the_table_says_so(bare):
    row = json.loads((bare / "table.json").read_text())[0]
    assert row["null kind"] == "random directions"
    assert row["kappa"] == pytest.approx((row["PW-MCC"] - row["null"]) / (1 - row["null"]))
    assert "null and kappa are those of random directions: switched off (n_null_draws: 0)" in row["missing"]


@pytest.mark.parametrize(
    "reason",
    [
        "PW-MCC over training: not measured: the runs kept no checkpoints in common",
        "Stable core of all seeds: switched off (core: false)",
        "Stable core by number of seeds: two seeds: a curve needs a third one",
        "Consensus against single seeds: switched off (consensus: false)",
    ],
)
def test_a_figure_with_nothing_to_show_is_words_on_the_page(bare, reason):
    assert reason in _Page((bare / "report.html").read_text()).text


def test_seeds_that_share_an_initialisation_are_flagged_everywhere_and_never_win(undrawn, tmp_path):
    study = study_config([0, 1, 2])
    found = make_variants(ArtifactStore(tmp_path / "store"), study, shared_start=True)
    headline = write_report(tmp_path / "report", study, MODEL, found)
    flagged, other = json.loads((tmp_path / "report" / "table.json").read_text())
    assert flagged["kappa"] > other["kappa"]
    assert headline["highest_variant"] == other["variant"]
    assert headline["n_not_independent"] == 1
    assert "seeds are not independent" in flagged["warning"]
    page = _Page((tmp_path / "report" / "report.html").read_text())
    assert page.text.index("The seeds of a variant are not independent") < page.text.index("PW-MCC")
    assert "Its interval, its kappa and every comparison with another variant are void" in page.text
    assert "topk-d64-k4 ⚠" in page.text
    said = r"topk-d64-k4: seeds are not independent: \d+ matched features have the same number"
    for text in (terminal_table(tmp_path / "report"), markdown_table(tmp_path / "report")):
        assert re.search(said, " ".join(text.split()))
    comparison = json.loads((tmp_path / "report" / "summary.json").read_text())["comparisons"][0]
    assert comparison["independent"] is False
    panels = answer_panels([read_variant(study, key, artifacts) for key, artifacts in found.items()])
    assert "(seeds not independent)" in svg(panels[0].panel, "x")


def test_matchings_without_a_proof_are_in_a_box_with_their_bound(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"])
    changes = {"certified": False, "upper_bound": 0.98765, "stopped": ["seed 0 and seed 1: 5 s are over"]}
    summary = record.consistency.summary.model_copy(update=changes)
    (text,) = warnings(summary)
    assert "(seed 0 and seed 1: 5 s are over)" in text
    assert text.endswith("at most 0.9877")


def test_variants_are_compared_with_seeds_as_units(report, variants):
    (found,) = json.loads((report[0] / "summary.json").read_text())["comparisons"]
    rows = json.loads((report[0] / "table.json").read_text())
    assert found["pw_mcc"]["difference"] == pytest.approx(rows[0]["PW-MCC"] - rows[1]["PW-MCC"])
    assert found["pw_mcc"]["smallest_p"] == pytest.approx(0.1)  # three seeds each: 20 ways, two-sided
    assert found["kappa"]["difference"] == pytest.approx(rows[0]["kappa"] - rows[1]["kappa"], abs=0.02)
    assert found["independent"] is True


def test_two_seeds_cannot_be_compared_and_the_page_says_so(bare):
    text = _Page((bare / "report.html").read_text()).text
    assert "two runs make one pair: a comparison of variants needs at least three runs of each" in text


def test_one_variant_has_nothing_to_be_compared_with(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"])
    assert comparison_section(compare_all([record])) is None


def test_pair_values_are_a_symmetric_matrix_in_the_order_of_the_runs(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"]).consistency
    values = record.pair_values("mcc")
    for row in record.pairs.to_pylist():
        a, b = (record.summary.runs.index(row[name]) for name in ("run_a", "run_b"))
        assert values[a, b] == values[b, a] == row["mcc"]
    assert np.isnan(np.diag(values)).all()


def test_variants_trained_elsewhere_have_no_training_curves_and_the_page_says_so(undrawn, tmp_path):
    study = StudyConfig.model_validate(
        {
            "name": "theirs",
            "model": "tiny-model",
            "hook": "model.layers.1",
            "variants": [{"architecture": "pretrained", "name": "published", "saes": ["a", "b"]}],
            "seeds": [0, 1],
        }
    )
    found = make_variants(ArtifactStore(tmp_path / "store"), study, checkpoints=False)
    for name in study.run_names():
        (found["pretrained-published"][f"sae {name}"].path / "training.parquet").unlink()
    write_report(tmp_path / "report", study, MODEL, found)
    text = _Page((tmp_path / "report" / "report.html").read_text()).text
    assert "Nothing was trained here" in text
    assert "pretrained-published architecture pretrained · name published · saes a, b" in text


def test_whether_matched_features_fire_alike_is_told_where_it_was_measured(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"])
    assert activations(record.consistency) is None
    pair = PairActivations(
        run_a="seed 0", run_b="seed 1", n_tokens=1000, n_matched=64, n_compared=60, mean_correlation=0.8,
        mean_jaccard=0.5, mean_best_candidate=0.9, share_partner_best=0.75, pw_mcc_activations=None, upper_bound=None,
        share_same_partner=None, reason="not matched by activations",
    )  # fmt: skip
    section = activations(replace(record.consistency, activations=[pair]))
    assert section is not None
    assert section.table.rows == [
        ["seed 0 and seed 1", "0.800", "0.500", "75.0 %", "–", "–", "not matched by activations"]
    ]


def test_a_reason_that_holds_for_all_variants_is_said_once(bare):
    for text in (_Page((bare / "report.html").read_text()).text, terminal_table(bare), markdown_table(bare)):
        assert text.count("confidence interval of PW-MCC: two runs make one pair") == 1


def test_a_reason_that_holds_for_some_variants_names_them():
    rows = [
        {"variant": "a", "missing": "x: one; y: two"},
        {"variant": "b", "missing": "y: two"},
        {"variant": "c", "missing": None},
    ]
    assert missing_notes(rows) == ["a: x: one", "a, b: y: two"]


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(page, report):
    assert page.open == []
    assert page.loaded == []
    html = (report[0] / "report.html").read_text()
    assert "<script" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_page_gives_the_answer_first_then_how_to_read_it_then_variants_then_provenance(page):
    order = [
        "topk-d64-k4 agrees most beyond chance: PW-MCC",
        "Differences between variants",
        "How to read this",
        "What stands behind it",
        "Do consistent features mean the same thing?",
        "Each variant",
        "Training",
        "Provenance",
    ]
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_credits_the_text_and_escapes_it(report, page):
    assert "some people &amp; others" in (report[0] / "report.html").read_text()
    assert MODEL.corpus.credit in page.text


def test_the_page_says_what_a_seed_changes(page):
    assert "a seed changes the initial weights, nothing else" in page.text


def test_provenance_names_every_artifact_with_its_digest(page, variants):
    for found in variants.values():
        for artifact in found.values():
            assert f"{artifact.manifest.kind}/{artifact.manifest.fingerprint}" in page.text
            assert artifact.content[:16] in page.text


def test_provenance_begins_with_what_all_runs_share(store):
    def build(folder):
        (folder / "x").write_text("x")
        return {}

    shared = store.get_or_build("activations", build, code_version="1", inputs={"hook": "h"})
    saes = {
        f"sae seed {seed}": store.get_or_build(
            "sae", build, code_version="1", inputs={"seed": seed}, upstream={"activations": shared}
        )
        for seed in range(2)
    }
    rows = provenance(saes).rows
    assert [row[0] for row in rows] == ["activations", "sae seed 0", "sae seed 1"]
    assert rows[0][1] == f"activations/{shared.manifest.fingerprint}"


def test_nothing_that_differs_between_identical_runs_is_on_the_page(report, variants):
    manifest = variants["topk-d64-k4"]["consistency"].manifest
    html = (report[0] / "report.html").read_text()
    assert manifest.created not in html
    assert f">{manifest.environment['machine']}<" not in html


def test_explained_pairs_are_quoted_where_the_explanations_are_given(page, variants, study):
    found = variants["topk-d64-k4"]
    without = {name: made for name, made in found.items() if not name.startswith("explanations")}
    titles = [[part.title for part in sections(read_variant(study, "topk-d64-k4", made))] for made in (found, without)]
    assert titles[0] == [*titles[1], "Examples"]
    assert "seed 0 explains" in page.text


def test_quoted_pairs_are_explained_from_two_halves_of_the_text(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"])
    rows = sections(record)[-1].table.rows
    texts = {
        (run, half): {row["explanation"] for row in table.to_pylist() if row["half"] == half}
        for run, table in record.explanations["lexical"].items()
        for half in (0, 1)
    }
    assert len(rows) == 10
    for *_, left, right in rows:
        assert any(left in texts["seed 0", half] and right in texts["seed 1", 1 - half] for half in (0, 1))


def test_more_variants_than_colours_are_all_in_the_table_and_the_page_says_which_are_drawn(
    undrawn, monkeypatch, tmp_path
):
    monkeypatch.setattr("sae_core.report.writing.small_png", small_png)
    study = study_config([0, 1], [{"architecture": "topk", "d_sae": 64, "k": k} for k in range(1, 9)])
    least = ConsistencyConfig(n_null_draws=1, core=False, consensus=False, merged=False)
    found = make_variants(ArtifactStore(tmp_path / "store"), study, config=least)
    write_report(tmp_path / "report", study, MODEL, found)
    assert "show the 6 of 8 variants" in (tmp_path / "report" / "report.html").read_text()
    assert terminal_table(tmp_path / "report").count("topk-d64-k") == 8
    assert (tmp_path / "report" / "report_small.png").stat().st_size < 150_000


def test_the_terminal_table_is_aligned_and_narrow(report):
    header, line, *rest = terminal_table(report[0]).splitlines()
    rows = [row for row in rest if "-d64-" in row]
    assert rest[2].startswith("PW-MCC: mean |cosine| of decoder rows")
    assert len(line) <= 110
    assert {len(text) for text in (header, line, *rows)} == {len(line)}
    assert [header[: header.index("L0")].strip(), *re.findall(r"PW-MCC \[95 % CI\]|null|kappa|FVE|>= 0.7", header)] == [
        "variant", "FVE", "PW-MCC [95 % CI]", "null", "kappa", ">= 0.7",
    ]  # fmt: skip


def test_a_long_variant_name_does_not_widen_the_terminal_table(report):
    row = json.loads((report[0] / "table.json").read_text())[0]
    text = terminal_rows([{**row, "variant": "matryoshka-" + "d" * 200, "L0": 12345.6, "kappa": -0.123}])
    assert max(len(line) for line in text.splitlines()) <= 110


def test_the_markdown_table_has_as_many_cells_in_every_row(report):
    lines = [line for line in markdown_table(report[0]).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_pictures_for_the_ui_are_small_and_always_the_same(variants):
    kinds = [("consistency", figure) for figure in (consistency_figure, core_figure, over_training_figure)]
    for kind, figure in [*kinds, ("explanation_similarity", similarity_figure)]:
        folder = variants["topk-d64-k4"][kind].path
        picture = figure(folder)
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 100_000
        assert figure(folder) == picture


def test_the_published_table_stands_beside_ours(page, variants):
    folder = variants["topk-d64-k4"]["explanation_similarity"].path
    assert [published.n for published in PUBLISHED_BINS] == [34, 311, 975, 1423, 13640]
    lines = markdown_published(folder).splitlines()[2:]
    ours = {part.low: part for part in SimilarityRecord.read(folder).first.log_bins}
    for line, low in zip(lines, [0.0, 0.065, 0.113, 0.195, 0.336, 0.58], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[3] == (str(ours[low].n) if low in ours else "0")
    assert "0.336 – 0.580 1,423 4.12" in page.text


def test_every_measure_stands_in_the_table_with_what_is_missing(page, variants):
    found = SimilarityRecord.read(variants["topk-d64-k4"]["explanation_similarity"].path).summary
    lines = markdown_measures(variants["topk-d64-k4"]["explanation_similarity"].path).splitlines()[2:]
    assert [each.measure for each in found.measures] == ["embedding:lexical", "embedding:chat", "words", "activations"]
    for each, line in zip(found.measures, lines, strict=True):
        assert f"{each.n_used:,} of {each.n_asked:,}" in line
        assert all(why in line for why in each.missing)
    assert "topk-d64-k4: chat, embedded" in page.text


def test_the_page_says_what_explanations_show_and_what_they_do_not(page):
    part = page.text[page.text.index("Do consistent features mean") : page.text.index("Each variant")]
    assert re.search(r"topk-d64-k4: at equal frequency .*the similarity of explanations .* ρ [0-9.−]+ \[", part)
    assert "It does not show that an explanation is right" in part


def test_scores_of_every_explainer_are_on_the_page_and_without_them_it_says_so(page, bare):
    assert "topk-d64-k4: chat 0.60" in page.text
    assert "270 of 300" in page.text  # three runs of a hundred, a tenth of them without a score
    assert "30 too few examples" in page.text
    text = _Page((bare / "report.html").read_text()).text
    assert "Do explanations predict?: explanations were not scored" in text
    assert "Nothing can be said: 0 of 64 matched pairs are explained on both sides" in text


def test_scores_are_a_table_with_a_row_a_score(variants):
    folders = {
        name: variants["topk-d64-k4"][f"scores{label} seed 0"].path for name, label in (("a", ""), ("b", " chat"))
    }
    rows = markdown_scores(folders).splitlines()[2:]
    assert len(rows) == 2 * len(SCORES)
    assert rows[0].startswith("| a: text precision | 0.800 | 0.800 |")
    assert rows[-1].endswith("| 90 | 10 too few examples |")


def test_contexts_to_read_are_the_strongest_ones(tmp_path):
    fired = [{"feature": i, "half": h, "n_activations": 5 * i, "frequency": i / 100} for i in range(4) for h in (0, 1)]
    features = [row | {"max_activation": 1.0, "mean_activation": 1.0, "promoted": []} for row in fired]
    examples = [
        {"feature": i, "half": 0, "kind": kind, "quantile": -1, "start": 0, "length": 1, "peak": 0, "activation": a,
         "activations": None, "text": f"{kind} {i} <<{a}>> a|b"}
        for i in range(4) for kind, a in (("strongest", 3.0), ("strongest", 2.0), ("random", 0.0))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(features, schema=FEATURE_SCHEMA), tmp_path / "features.parquet")
    pq.write_table(pa.Table.from_pylist(examples, schema=EXAMPLE_SCHEMA), tmp_path / "examples.parquet")
    lines = markdown_contexts(tmp_path).splitlines()
    assert lines[2] == "| 3 | 30,000 | 15 | strongest 3 <<3.0>> a\\|b |"
    assert len(lines) == 2 + 3  # feature 0 never fires


def test_a_similarity_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"rho_partial": 0.1}))
    with pytest.raises(ValueError, match=r"one of an earlier version; materialize explanation_similarity again"):
        SimilarityRecord.read(tmp_path)


def test_explanations_to_read_are_spread_over_the_frequency(variants):
    lines = markdown_explanations(variants["topk-d64-k4"]["explanations seed 0"].path, n=5).splitlines()
    assert len(lines) == 2 + 5
    assert lines[2].split("|")[3].strip().count(",") == 4


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_figure_of_a_comparison_is_written_as_its_name_says(compared, tmp_path, suffix):
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-"}[suffix]
    write_compare_figure(tmp_path / f"figure{suffix}", compared)
    assert (tmp_path / f"figure{suffix}").read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [f"figure{suffix}"]


def test_the_same_comparison_gives_the_same_figure(compared):
    assert compare_figure(compared, ".svg") == compare_figure(compared, ".svg")


def test_the_figure_of_a_comparison_has_the_panels_that_are_known(compared):
    bare = replace(compared, core_curve=None)
    assert Image.open(io.BytesIO(compare_figure(bare))).size == (2400, 600)
    joint = compared.matches.schema.get_field_index("encoder_cosine")
    nothing = pa.nulls(compared.matches.num_rows, pa.float64())
    bare = replace(bare, matches=compared.matches.set_column(joint, "encoder_cosine", nothing))
    assert Image.open(io.BytesIO(compare_figure(bare))).size == (1600, 600)


def test_a_figure_of_another_kind_or_in_no_folder_is_refused(compared, tmp_path):
    with pytest.raises(ValueError, match=r"written as .png, .svg, .pdf: got figure.jpg; give its name"):
        write_compare_figure(tmp_path / "figure.jpg", compared)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone for the figure; make it first"):
        write_compare_figure(tmp_path / "gone" / "figure.png", compared)


def test_a_report_is_an_artifact_of_the_chain(undrawn, store, study, variants):
    made = make_report(store, study, MODEL, variants)
    assert made.summary["highest_variant"] == "topk-d64-k4"
    assert make_report(store, study, MODEL, variants).cache_hit


def test_a_missing_artifact_is_named(study, variants, tmp_path):
    broken = {key: {n: a for n, a in found.items() if n != "evaluation seed 1"} for key, found in variants.items()}
    with pytest.raises(KeyError, match="variant topk-d64-k4 lacks evaluation seed 1; materialize"):
        write_report(tmp_path, study, MODEL, broken)


def test_a_report_of_nothing_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match="at least one variant, got none"):
        write_report(tmp_path, study, MODEL, {})


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table.json in .*materialize the report"):
        terminal_table(tmp_path)


def test_numbers_read_as_written():
    assert number(0.12345) == "0.123"
    assert number(-0.5, 2) == "−0.50"
    assert number(-0.0001, 2) == "0.00"
    assert number(0.2, 2, sign=True) == "+0.20"
    assert number(None) == "–"
    assert number(12345.6, 1) == "12,345.6"
    assert percent(0.1234) == "12.3 %"
    assert percent(None) == "–"
    assert with_interval(0.5, 0.4, 0.6) == "0.500 [0.400, 0.600]"
    assert with_interval(0.5, None, None) == "0.500 [–]"
    assert per_million(2.4e-6) == "2.4"
    assert per_million(0.5) == "500,000"
    assert evenly_spaced(5, 3) == [0, 2, 4]
    assert evenly_spaced(2, 10) == [0, 1]
    assert evenly_spaced(0, 10) == []


def test_every_column_of_the_measures_has_a_heading(variants, study):
    record = read_variant(study, "topk-d64-k4", variants["topk-d64-k4"])
    table = measures_table({"topk": record.similarity})
    assert {len(row) for row in table.rows} == {len(table.header)}
    first = record.similarity.first
    assert table.rows[0][table.header.index("permuted")] == number(first.rho_partial_permuted, 2)
