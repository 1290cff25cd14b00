"""The paper's numbers beside ours: verdicts, tables, figures, the page."""

import json
import re
from pathlib import Path

import pytest
import yaml

from sae_core.consistency import null_mcc
from sae_core.report.figure_files import png
from sae_core.reproduction import (
    LanguageModelResult,
    experiment_figure,
    experiment_table,
    read_points,
    schema_digest,
    write_experiment,
    write_reproduction,
)
from sae_core.reproduction.claims import PEAK_TEXT, Source, rises, same_place
from sae_core.reproduction.estimates import (
    Estimate,
    around_true_k,
    correlation_in_training,
    first_and_last_group,
    gt,
    gt_of_one,
    rarest_and_most_frequent,
)
from sae_core.reproduction.group_figures import fitted
from sae_core.reproduction.labels import label, x_value
from sae_core.reproduction.lines import scale_of
from sae_core.reproduction.proxy_map import proxy_map
from sae_core.reproduction.published import CLAIMS, LANGUAGE_MODEL_CLAIMS
from sae_core.reproduction.rows import TOLERANCE, all_rows, verdict
from sae_core.reproduction.sentences import sentences
from sae_core.synthetic.results import CapacityLaw, DynamicsPoint
from sae_core.synthetic_config import GroupConfig, SyntheticStudyConfig
from tests.made_up_points import a_config, a_point, a_study, results_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"


@pytest.fixture(scope="module")
def paper():
    """The study of the paper's experiments, as the file has it."""
    text = (ROOT / "pipelines" / "defs" / "synthetic" / "paper" / "defs.yaml").read_text()
    return SyntheticStudyConfig.model_validate(yaml.safe_load(text)["attributes"])


@pytest.fixture(scope="module")
def written(paper, tmp_path_factory):
    """The reproduction of made-up results of a part of the paper's study."""
    folder = tmp_path_factory.mktemp("reproduction")
    some = [paper.experiment(name) for name in ("matched", "zipf_groups", "training_dynamics")]
    study = paper.model_copy(update={"experiments": some})
    summary = write_reproduction(folder, study, results_of(study), None)
    return folder, summary


def matched(*points):
    return {"matched": {"8-16-3": list(points)}}


def row(results, name, language_model=None):
    return next(found for found in all_rows(results, language_model) if found.id == name)


# --- verdicts ---------------------------------------------------------------------------------------------------


def above_chance(value, low=None, high=None):
    return Estimate(value, low, high, nulls=(0.2,))


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (above_chance(0.97 - TOLERANCE), "reproduced"),
        (above_chance(0.97 - TOLERANCE - 0.001), "in kind"),
        (above_chance(0.90, 0.83, 0.97), "reproduced"),
        (above_chance(0.90, 0.831, 0.969), "in kind"),
        (Estimate(0.97, nulls=(0.97,)), "not reproduced"),
        (Estimate(0.97, nulls=(0.2, 0.969)), "not reproduced"),
    ],
)
def test_a_number_is_reproduced_within_the_tolerance_or_half_the_interval_unless_it_is_chance(ours, expected):
    assert verdict([0.97], [ours], holds=True) == expected


def test_kappa_of_five_hundredths_is_above_chance_and_less_is_not():
    null = 0.6
    assert not Estimate(null + 0.0501 * (1 - null), nulls=(null,)).chance_like
    assert Estimate(null + 0.0499 * (1 - null), nulls=(null,)).chance_like
    assert not Estimate(0.0).chance_like


def test_what_does_not_hold_in_kind_and_is_far_off_is_not_reproduced():
    assert verdict([0.97], [above_chance(0.8)], holds=False) == "not reproduced"
    assert verdict([0.97], [above_chance(0.96)], holds=False) == "reproduced"


def test_a_claim_without_a_number_or_on_another_scale_is_in_kind_at_best():
    assert verdict([], [above_chance(0.9)], holds=True) == "in kind"
    assert verdict([8.0], [above_chance(0.9)], holds=True, same_scale=False) == "in kind"


def test_every_number_of_a_row_must_be_near():
    near, far = above_chance(0.66), above_chance(0.9)
    assert verdict([0.66, 0.55], [near, above_chance(0.55)], holds=True) == "reproduced"
    assert verdict([0.66, 0.55], [near, far], holds=True) == "in kind"
    assert verdict([0.66, 0.55], [near, above_chance(0.21)], holds=True) == "in kind"
    assert verdict([0.66, 0.55], [above_chance(0.21), above_chance(0.2)], holds=True) == "not reproduced"


def test_nothing_to_compare_is_not_yet_run():
    assert verdict([0.97], [], holds=False) == "not yet run"


# --- rows -------------------------------------------------------------------------------------------------------


def test_without_results_every_row_is_not_yet_run():
    found = all_rows({})
    assert [one.id for one in found] == [claim.id for claim in (*CLAIMS, *LANGUAGE_MODEL_CLAIMS)]
    assert {one.verdict for one in found} == {"not yet run"}
    assert "no results of matched, 8-16-3, topk" in found[0].notes[0]
    assert "`concord run pythia-160m`" in found[-1].notes[0]


def test_topk_above_standard_holds_in_kind_only_where_there_is_a_standard_to_be_above():
    topk, standard = a_point(gt=0.8), a_point(a_config("standard"), gt=0.7)
    assert row(matched(topk, standard), "matched_topk_8_16_3").verdict == "in kind"
    assert row(matched(topk), "matched_topk_8_16_3").verdict == "not reproduced"
    assert row(matched(a_point(gt=0.6), standard), "matched_topk_8_16_3").verdict == "not reproduced"


def test_a_chance_like_value_and_a_published_value_at_chance_are_called_so():
    null = null_mcc(16, 8)
    standard = a_point(a_config("standard"), gt=null + 0.001, pw=0.9, null=null)
    found = row(matched(a_point(), standard), "matched_standard_8_16_3")
    assert found.verdict == "not reproduced"
    assert any("the published value is what chance gives for this shape: 0.63" in note for note in found.notes)
    assert any(note.startswith("chance-like, not above chance: 0.63") for note in found.notes)


def test_a_point_where_runs_agree_on_something_wrong_says_so():
    found = row(matched(a_point(gt=0.8, pw=0.95, wrong=True)), "matched_follows_8_16_3")
    assert found.verdict == "not reproduced"
    assert any("consistent but wrong" in note for note in found.notes)


def test_a_row_about_one_point_refuses_two():
    with pytest.raises(ValueError, match="about one point.*move all but one to another group"):
        gt_of_one([a_point(), a_point(a_config(noise=0.1))])


def sweep(values):
    """Points of a sweep of k, where 3 is true."""
    return [a_point(a_config(sae_k=k), gt=value) for k, value in values.items()]


def test_a_sweep_of_k_is_compared_below_at_and_above_the_true_k():
    points = sweep({1: 0.5, 2: 0.7, 3: 0.9, 5: 0.8})
    assert [one.value for one in around_true_k(gt)(points)] == pytest.approx([0.6, 0.9, 0.8])
    assert around_true_k(gt)(points[:3]) is None
    name, results = "k_sweep_gt_m20", {"k_sweep": {"m20": points}}
    assert row(results, name).verdict == "in kind"
    assert row({"k_sweep": {"m20": sweep({2: 0.95, 3: 0.9, 5: 0.8})}}, name).verdict == "not reproduced"
    assert row(results, name).in_kind == PEAK_TEXT


def test_ends_of_groups_and_of_frequencies_are_taken_in_their_order():
    point = a_point(gt=0.9, pw=0.8)
    first, last = first_and_last_group([point])
    assert (first.value, last.value) == pytest.approx((0.88, 0.82))
    assert first.high - first.value == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-5)
    rare, frequent = rarest_and_most_frequent([point])
    assert (rare.value, frequent.value) == pytest.approx((0.6, 0.8))
    assert first_and_last_group([a_point(groups=None, capacity=None)]) is None


def test_pairs_that_never_fired_are_not_the_rarest():
    bins = a_point(pw=0.8).consistency.frequency_bins
    never = bins[0].model_copy(update={"low": 0.0, "high": 0.0, "mean_cosine": 0.1})
    point = a_point(pw=0.8)
    agreement = point.consistency.model_copy(update={"frequency_bins": [never, *bins]})
    rare, _ = rarest_and_most_frequent([point.model_copy(update={"consistency": agreement})])
    assert rare.value == pytest.approx(0.6)


def test_agreement_that_never_moves_has_no_correlation_with_the_truth():
    steps = [DynamicsPoint(step=step, pw_mcc=0.5, gt_mcc=0.1 * step, fvu=0.1) for step in range(4)]
    assert correlation_in_training([a_point(dynamics=steps)]) is None
    assert correlation_in_training([a_point()])[0].value == pytest.approx(1)


def test_rising_needs_a_trend_and_a_last_above_the_first():
    assert rises([1.71, 2.19, 3.27, 4.12, 8.28])
    assert not rises([1.0, 5.0, 4.0, 3.0, 1.1])
    assert not rises([2.0, 3.0, 4.0, 5.0, 1.9])
    assert not rises([1.0])


def test_every_published_row_finds_its_points_in_the_study_of_the_paper(paper):
    results = results_of(paper)
    for claim in CLAIMS:
        points = claim.source.points(results)
        assert points, claim.id
        found = claim.measure(points)
        assert found, claim.id
        assert len(found) == len(claim.numbers) or not claim.numbers, claim.id


def test_a_source_takes_a_point_that_several_groups_share_once():
    point = a_point()
    assert len(Source("map").points({"map": {"noise": [point], "width": [point]}})) == 1


def test_ids_of_rows_differ():
    ids = [claim.id for claim in (*CLAIMS, *LANGUAGE_MODEL_CLAIMS)]
    assert len(set(ids)) == len(ids)


# --- on a language model ----------------------------------------------------------------------------------------


def language_model(**pw_mcc):
    """Results of variants by their keys, underscores for hyphens."""
    consistent = {
        key: a_point(pw=value, null=0.145).consistency.model_dump(mode="json") for key, value in pw_mcc.items()
    }
    bins = [{"mean_similarity": value} for value in (0.9, 0.2, 0.3, None, 0.4, 0.5)]  # the first lies below the paper's
    measures = [{"measure": "words", "log_bins": []}, {"measure": "embedding:lexical", "log_bins": bins}]
    similarity = {"primary": "embedding:lexical", "measures": measures}
    return {key.replace("__", "-"): LanguageModelResult(found, similarity) for key, found in consistent.items()}


def test_rows_of_a_language_model_take_the_variant_they_name_or_the_one_that_agrees_most():
    results = language_model(
        topk__d16384__k20=0.80, topk__d16384__k40=0.9, batch_topk__d16384__k20=0.5, batch_topk__d16384__k80=0.7
    )
    topk, batch = row({}, "pythia_topk", results), row({}, "pythia_batch_topk", results)
    assert (topk.points, topk.verdict) == (("topk-d16384-k20",), "reproduced")
    assert (batch.points, batch.verdict) == (("batch_topk-d16384-k80",), "not reproduced")
    assert any("the one that agrees most" in note for note in batch.notes)
    assert row({}, "pythia_gated", results).verdict == "not yet run"


def test_the_place_among_architectures_needs_all_of_them():
    published = {"topk": 0.8, "gated": 0.7}
    results = language_model(topk__d4__k2=0.6, gated__d4__l1_1=0.5)
    assert same_place(published, "topk")(results, [Estimate(0.6)])
    assert not same_place(published, "topk")(results, [Estimate(0.4)])
    assert not same_place(published, "topk")({"topk-d4-k2": results["topk-d4-k2"]}, [Estimate(0.6)])


def test_explanations_on_another_scale_hold_in_kind_and_say_so():
    found = row({}, "pythia_explanations", language_model(topk__d16384__k20=0.8))
    assert (found.verdict, len(found.ours)) == ("in kind", 4)
    assert any("another scale" in note for note in found.notes)


# --- labels, tables, figures ------------------------------------------------------------------------------------


def test_a_label_says_what_differs_and_nothing_else():
    quiet, noisy, standard = a_point(), a_point(a_config(noise=0.1)), a_point(a_config("standard"))
    assert label(quiet, [quiet]) == "TopK"
    assert label(noisy, [quiet, noisy]) == "TopK, noise 0.1"
    assert [label(point, [quiet, standard]) for point in (quiet, standard)] == ["TopK", "Standard"]


def test_axes_read_numbers_of_the_variant_then_of_the_data_and_refuse_others():
    zipf = a_config(frequency={"kind": "zipf", "exponent": 1.5})
    assert [x_value(zipf, x) for x in ("k", "d_sae", "d_in", "exponent", "strength")] == [3, 16, 8, 1.5, 0]
    assert x_value(a_config(), "exponent") == 0
    with pytest.raises(ValueError, match="has no number 'branching'; set x of its group"):
        x_value(zipf, "branching")
    assert (scale_of([8.0, 128.0]), scale_of([0.0, 128.0]), scale_of([5.0, 32.0])) == ("log", "linear", "linear")


def test_a_table_has_a_row_a_point_and_calls_chance_and_error_by_name():
    points = [a_point(), a_point(a_config("standard"), gt=0.51, pw=0.9, wrong=True)]
    lines = experiment_table(points).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3].endswith("| GT-MCC chance-like, consistent but wrong |")


KINDS = {
    "bars": {}, "sweep": {"x": "noise"}, "groups": {}, "frequency": {}, "dynamics": {}, "round_trip": {"x": "noise"},
    "seeds": {},
}  # fmt: skip


def group(kind, **more):
    return GroupConfig.model_validate(
        {
            "data": [a_config().data], "variants": [a_config().variant], "recipes": ["unit"], "figure": kind,
            **KINDS[kind], **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_figure_draws_the_same_bytes_again(kind):
    points = [a_point(a_config(name, noise=noise)) for name in ("topk", "standard") for noise in (0.0, 0.1)]
    drawn = [png(experiment_figure(group(kind), points), dpi=40) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert sentences(group(kind), points)


@pytest.mark.parametrize(
    ("kind", "without", "message"),
    [
        ("groups", {"groups": None, "capacity": None}, "set measures.groups"),
        ("dynamics", {"dynamics": None}, "set measures.checkpoints"),
        ("round_trip", {"premises": None}, "set measures.round_trip"),
        ("seeds", {"seed_counts": None}, "set measures.seed_counts"),
    ],
)
def test_a_figure_of_what_was_not_measured_is_refused(kind, without, message):
    with pytest.raises(ValueError, match=message):
        experiment_figure(group(kind), [a_point(**without)])


def test_figures_refuse_no_points_a_sweep_without_an_axis_and_points_that_share_a_place():
    with pytest.raises(ValueError, match="has no points to draw"):
        experiment_figure(group("bars"), [])
    with pytest.raises(ValueError, match="needs x"):
        experiment_figure(group("sweep", x=None), [a_point()])
    panels = experiment_figure(group("sweep"), [a_point(), a_point()])
    with pytest.raises(ValueError, match="have the same noise"):
        png(panels, dpi=40)


def test_a_fitted_law_gives_all_groups_together_what_they_have_and_its_slope():
    groups = a_point().groups
    values = fitted(groups, CapacityLaw(alpha=2.0, ci_low=1.0, ci_high=3.0))
    assert values.sum() == pytest.approx(sum(of.n_matched for of in groups))
    assert values[0] / values[1] == pytest.approx((groups[0].probability / groups[1].probability) ** 2)


def test_the_map_counts_a_shared_point_once_and_ranks_the_wrong_by_their_distance():
    far, near = a_point(a_config(noise=0.1), gt=0.6, pw=0.9, wrong=True), a_point(gt=0.8, pw=0.9, wrong=True)
    found = proxy_map({"one": {"all": [near, far]}, "two": {"all": [near]}})
    assert [each.point for each in found.wrong] == [far, near]
    assert len(found.points) == 2
    consensus = found.gains["consensus"]
    assert (consensus.more, consensus.less, consensus.mean) == (2, 0, pytest.approx(0.2))


# --- files ------------------------------------------------------------------------------------------------------


def test_an_experiment_is_read_back_as_it_was_written(tmp_path):
    points = [a_point(), a_point(a_config("standard"), gt=0.7, wrong=True)]
    summary = write_experiment(tmp_path, group("bars"), points)
    assert read_points(tmp_path) == points
    assert (summary["n_points"], summary["closest_gt_mcc"], summary["n_consistent_but_wrong"]) == (2, 0.9, 1)
    assert (tmp_path / "figure_small.png").stat().st_size <= 150_000
    with pytest.raises(FileNotFoundError, match=r"no points\.json"):
        read_points(tmp_path / "elsewhere")


def test_the_page_has_every_row_and_every_picture_it_shows(written):
    folder, summary = written
    page, rows = (folder / "reproduction.md").read_text(), json.loads((folder / "rows.json").read_text())
    assert page.startswith(f"<!-- made by sae-concord from artifacts of schema {schema_digest()}; do not edit -->\n")
    assert [found["id"] for found in rows] == [claim.id for claim in (*CLAIMS, *LANGUAGE_MODEL_CLAIMS)]
    assert len(re.findall(r"\*\*(?:reproduced|in kind|not reproduced|not yet run)\*\*", page)) == len(rows)
    assert all(f"`{found['id']}`" in page for found in rows)
    assert "`concord run pythia-160m`" in page
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert shown
    assert all((folder / name).is_file() for name in shown)
    counts = [summary[name] for name in ("n_reproduced", "n_in_kind", "n_not_reproduced", "n_not_yet_run")]
    assert sum(counts) == len(rows)


def test_the_same_results_give_the_same_bytes(tmp_path):
    study, results = a_study(), matched(a_point(), a_point(a_config("standard"), gt=0.7))
    for name in ("one", "two"):
        write_reproduction(tmp_path / name, study, results, None)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "reproduction_matched.png" in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_study_without_results_gives_a_page_that_says_so(tmp_path):
    summary = write_reproduction(tmp_path, a_study(), {}, None)
    assert summary["n_not_yet_run"] == summary["n_rows"] == len(CLAIMS) + len(LANGUAGE_MODEL_CLAIMS)


def test_numbers_of_a_row_are_in_the_file_as_numbers_and_as_shown(tmp_path):
    write_reproduction(tmp_path, a_study(), matched(a_point(gt=0.9), a_point(a_config("standard"), gt=0.7)), None)
    found = json.loads((tmp_path / "rows.json").read_text())[0]
    assert (found["ours"], found["ci"], found["kappa"]) == ("0.900", "[0.890, 0.910]", "0.800")
    assert found["values"][0]["value"] == 0.9


@pytest.mark.skipif(not PAGE.exists(), reason="the page was not made yet")
def test_the_published_page_is_made_of_results_as_they_are_now():
    found = PAGE.read_text(encoding="utf-8").splitlines()[0]
    assert f"schema {schema_digest()};" in found, (
        "docs/reproduction.md was made of results of another shape, or beside other published numbers; make it anew: "
        "concord run paper --docs docs"
    )
