"""Synthetic studies in Dagster: a tiny one, end to end."""

import json
import re
import traceback
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from assets.components import model_definitions, study_definitions, synthetic_definitions
from assets.keys import StudyKeys, SyntheticKeys
from assets.recording import StoreResource
from assets.up_to_date import status_definitions
from pipelines.chains import synthetic_chain
from pipelines.definitions import defs
from pipelines.docs_pages import publish
from pipelines.runner import materialize_chain
from sae_core.synthetic_config import SyntheticStudyConfig
from tests import small_study

KEYS = SyntheticKeys("tiny")
DATA = {"d_in": 4, "d_gt": 6, "k": 2}
TOPK = {"architecture": "topk", "d_sae": 6, "k": 2, "aux_k_coefficient": 0}
STANDARD = {"architecture": "standard", "d_sae": 6, "l1_coefficient": 0.1}
MEASURES = {"n_eval_samples": 64, "n_null_draws": 1, "n_frequency_bins": 2, "ceiling": False}


def attributes(noise=(0, 0.5), **changes):
    """A study of two experiments: one with two groups, one with a sweep of the noise."""
    return {
        "name": "tiny",
        "seeds": [0, 1, 2],
        "language_model_study": "small",
        "recipes": {"quick": {"n_steps": 20, "batch_size": 16}},
        "experiments": [
            {
                "name": "matched",
                "title": "As many features as the truth has",
                "measures": MEASURES,
                "groups": [
                    {"name": "topk", "data": [DATA], "variants": [TOPK], "recipes": ["quick"]},
                    {"name": "standard", "data": [DATA], "variants": [STANDARD], "recipes": ["quick"]},
                ],
            },
            {
                "name": "noisy",
                "title": "Noise",
                "measures": MEASURES,
                "groups": [
                    {
                        "figure": "sweep",
                        "x": "noise",
                        "data": [DATA | {"noise": {"sweep": list(noise)}}],
                        "variants": [TOPK],
                        "recipes": ["quick"],
                    }
                ],
            },
        ],
    } | changes


LANGUAGE_MODEL = small_study.study_config([0, 1, 2])


class World:
    """A store and a Dagster instance of their own."""

    def __init__(self, root, instance):
        self.resource, self.instance, self.lines = StoreResource(root=str(root)), instance, []

    def definitions(self, study):
        return dg.Definitions.merge(
            synthetic_definitions(study, LANGUAGE_MODEL),
            model_definitions(small_study.MODEL),
            study_definitions(LANGUAGE_MODEL, small_study.MODEL),
            dg.Definitions(resources={"store": self.resource}, executor=dg.in_process_executor),
        )

    def run(self, study):
        self.lines.clear()
        chain = synthetic_chain(study)
        return materialize_chain(self.definitions(study), self.instance, chain, self.lines.append)

    def made(self):
        """Titles of the steps of the last run that were not cache hits."""
        return [line.split("] ")[1].rsplit(":", 1)[0] for line in self.lines if not line.endswith(": cached")]

    def points(self):
        """Noise of every point in the store, by fingerprint."""
        found = [made.manifest for made in self.resource.open().artifacts() if made.manifest.kind == "synthetic_point"]
        return {manifest.fingerprint: manifest.inputs["point"]["data"]["noise"] for manifest in found}

    def metadata(self, key, partition=None):
        record = self.instance.get_latest_data_version_record(key, False, partition)
        return record.asset_materialization.metadata


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path_factory.mktemp("synthetic") / "store", instance)


@pytest.fixture(scope="module")
def study():
    return SyntheticStudyConfig.model_validate(attributes())


@pytest.fixture(scope="module")
def first(world, study):
    """What came of the first run."""
    return world.run(study), list(world.lines)


def test_a_study_is_made_group_by_group_and_ends_in_a_page_with_a_verdict_a_row(first):
    outcome, lines = first
    assert [line.split("] ")[1].rsplit(":", 1)[0] for line in lines] == [
        "matched, topk",
        "matched, standard",
        "noisy",
        "reproduction",
    ]
    assert (outcome.n_steps, outcome.n_cache_hits) == (4, 0)
    assert outcome.page == outcome.report / "reproduction.md"
    rows = json.loads((outcome.report / "rows.json").read_text())
    assert {row["verdict"] for row in rows} <= {"reproduced", "in kind", "not reproduced", "not yet run"}
    assert outcome.table.splitlines()[0].split() == ["row", "claim", "published", "ours", "verdict"]
    assert max(map(len, outcome.table.splitlines())) <= 110


def test_a_second_run_is_all_cache_hits(world, study, first):
    again = world.run(study)
    assert (again.n_cache_hits, again.report, world.made()) == (4, first[0].report, [])


def test_the_page_has_a_check_that_says_what_of_the_study_is_out_of_date(world, study, first):
    def look(config):
        assets = world.definitions(config)
        job = dg.Definitions.merge(assets, status_definitions([], [config], assets)).resolve_job_def("status")
        (found,) = job.execute_in_process(instance=world.instance).get_asset_check_evaluations()
        return found

    found = look(study)
    assert found.passed, found.metadata["partitions"].value
    assert found.metadata["fresh"].value == 4
    late = look(SyntheticStudyConfig.model_validate(attributes(noise=(0, 0.5, 0.6))))
    assert not late.passed
    assert late.metadata["stale"].value == 2  # the experiment, and the page, which prints its settings
    assert "| tiny/noisy | stale | " in late.metadata["partitions"].value


def test_one_more_value_of_a_sweep_trains_exactly_that_point(world, study, first):
    before = world.points()
    world.run(SyntheticStudyConfig.model_validate(attributes(noise=(0, 0.5, 1.0))))
    after = world.points()
    assert world.made() == ["noisy", "reproduction"]
    assert [noise for name, noise in after.items() if name not in before] == [1.0]
    assert before.keys() <= after.keys()


def test_an_experiment_has_a_partition_for_each_group_and_none_where_there_is_one_group(world, study):
    graph = world.definitions(study).resolve_asset_graph()
    matched, noisy = graph.get(KEYS.experiment("matched")), graph.get(KEYS.experiment("noisy"))
    assert matched.partitions_def.get_partition_keys() == ["topk", "standard"]
    assert noisy.partitions_def is None
    assert matched.group_name == "tiny"
    assert matched.description.startswith("As many features as the truth has. ")
    assert {matched.key, noisy.key} < graph.get(KEYS.reproduction).parent_keys


def test_a_setting_changes_the_code_version_of_its_experiment_alone(world, study):
    changed = SyntheticStudyConfig.model_validate(attributes(noise=(0, 0.6)))
    versions = [
        {name: one.resolve_asset_graph().get(KEYS.experiment(name)).code_version for name in ("matched", "noisy")}
        for one in (world.definitions(study), world.definitions(changed))
    ]
    assert versions[0]["matched"] == versions[1]["matched"]
    assert versions[0]["noisy"] != versions[1]["noisy"]


def test_the_ui_gets_numbers_a_table_a_figure_and_the_way_to_the_artifact(world, study, first):
    world.run(study)
    metadata = world.metadata(KEYS.experiment("matched"), "topk")
    (point,) = [config.key for config in study.points(study.experiment("matched"), "topk")]
    assert 0 < metadata[f"gt_mcc/{point}"].value <= 1
    assert 0 < metadata[f"pw_mcc/{point}"].value <= 1
    assert metadata["table"].value.startswith("| ")
    assert "data:image/png;base64," in metadata["figure: points"].value
    assert (Path(metadata["path"].value) / "points.json").is_file()
    page = world.metadata(KEYS.reproduction)
    assert page["table"].value.startswith("| claim | setting | published | ours ")
    assert Path(page["page"].value).is_file()
    verdicts = ("n_reproduced", "n_in_kind", "n_not_reproduced", "n_not_yet_run")
    assert sum(page[name].value for name in verdicts) == page["dagster/row_count"].value
    assert len(page["figure: agreement and truth"].value) < 300_000


def test_chance_like_points_are_named_in_a_check_that_does_not_block(world, study, first):
    key = KEYS.experiment("noisy")
    names = ["verified", "finite", "certified", "above_chance"]
    found = world.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(key, name) for name in names]
    )
    evaluations = {check.name: record.event.dagster_event.event_specific_data for check, record in found.items()}
    assert set(evaluations) == set(names)
    assert all(evaluations[name].passed for name in ("verified", "finite", "certified"))
    chance, folder = evaluations["above_chance"], Path(world.metadata(key)["path"].value)
    named = [point["chance_like"] for point in json.loads((folder / "points.json").read_text())]
    assert chance.severity == dg.AssetCheckSeverity.WARN
    assert chance.passed == (not any(named))
    assert chance.metadata["chance_like"].value.count(" (") == sum(map(bool, named))


def test_a_reproduction_needs_every_experiment(world, study, tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        job = World(tmp_path, instance).definitions(study).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[KEYS.reproduction], raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "tiny/matched [topk] has never been materialized" in str(failure.step_failure_data)


def test_results_on_a_language_model_stand_in_the_reproduction_once_there_are_any(world, study, first):
    keys = StudyKeys("small")
    assert {keys.consistency, keys.similarity} < _parents(world.definitions(study))
    assert _of_language_model(first[0].report) == []
    made = small_study.make_variants(world.resource.open(), LANGUAGE_MODEL)["topk-d64-k4"]
    for key, name in ((keys.consistency, "consistency"), (keys.similarity, "explanation_similarity")):
        reference = dg.MetadataValue.json({"url": made[name].url, "content": made[name].content})
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition="topk-d64-k4", metadata={f"artifact/{name}": reference})
        )
    found = world.run(study)
    assert world.made() == ["reproduction"]
    assert _of_language_model(found.report) == ["topk-d64-k4 consistency", "topk-d64-k4 explanation_similarity"]


def _parents(definitions):
    return definitions.resolve_asset_graph().get(KEYS.reproduction).parent_keys


def _of_language_model(folder):
    names, prefix = json.loads((folder / "_manifest.json").read_text())["upstream"], "language model "
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def test_a_page_is_copied_with_what_it_links_beside_it_and_nothing_else(tmp_path):
    page, docs = tmp_path / "made" / "reproduction.md", tmp_path / "docs"
    page.parent.mkdir()
    docs.mkdir()
    page.write_text("![Map](map.png) [method](method.md#nulls) [rows](rows.json) [paper](https://example.org/a.png)")
    for name in ("map.png", "rows.json", "map_small.png"):
        (page.parent / name).write_text(name)
    (docs / "map.png").write_text("old")
    written = publish(page, docs)
    assert written == [docs / "map.png", docs / "rows.json", docs / "reproduction.md"]
    assert sorted(docs.iterdir()) == sorted(written)
    assert (docs / "map.png").read_text() == "map.png"


# --- the files of the project ---------------------------------------------------------------------------------------


def load(files):
    """Definitions of a project of these files: by folder, the type of component and its attributes."""
    with create_defs_folder_sandbox() as sandbox:
        for folder, (component, values) in files.items():
            path = sandbox.defs_folder_path / folder / "defs.yaml"
            path.parent.mkdir()
            path.write_text(yaml.safe_dump({"type": f"assets.components.{component}", "attributes": values}))
        with sandbox.build_all_defs() as found:
            return found


def refusal(files):
    """Everything that a user reads when files are refused."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        load(files)
    return "".join(traceback.format_exception(caught.value))


def test_a_synthetic_study_in_yaml_becomes_assets():
    loaded = load({"tiny": ("SyntheticStudy", attributes(language_model_study=None))})
    graph = loaded.with_resources({"store": StoreResource(root="anywhere")}).resolve_asset_graph()
    assert graph.get_all_asset_keys() == {KEYS.experiment("matched"), KEYS.experiment("noisy"), KEYS.reproduction}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seedz": [0, 1]}, r"attributes\.seedz at .*tiny/defs\.yaml:\d+[\s\S]*Extra inputs are not permitted"),
        (
            {"recipes": {"other": {}}},
            r"tiny/defs\.yaml:\d+[\s\S]*experiment matched, group topk: there is no recipe 'quick'; there are other",
        ),
        (
            {"recipes": {"quick": {"n_steps": 0}}},
            r"attributes\.recipes\.quick\.n_steps at .*tiny/defs\.yaml:\d+[\s\S]*greater than or equal to 1",
        ),
        ({"language_model_study": "not-there"}, r"study tiny: there is no study 'not-there' to show; .* define none; "),
    ],
    ids=["field", "recipe", "value", "language model study"],
)
def test_a_wrong_file_is_refused_with_file_field_and_reason(changes, reason):
    assert re.search(reason, refusal({"tiny": ("SyntheticStudy", attributes(**changes))}))


def test_the_project_has_the_experiments_of_the_paper():
    graph = defs().resolve_asset_graph()
    paper = {key.path[1] for key in graph.get_all_asset_keys() if graph.get(key).group_name == "paper"}
    assert paper == {
        "matched",
        "k_sweep",
        "redundant",
        "compressive",
        "zipf_groups",
        "two_phase_zipf",
        "training_dynamics",
        "identifiability",
        "proxy_map",
        "reproduction",
    }
    parents = {key.to_user_string() for key in graph.get(SyntheticKeys("paper").reproduction).parent_keys}
    assert {"paper/matched", "pythia-160m/consistency", "pythia-160m/explanation_similarity"} < parents
