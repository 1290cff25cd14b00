"""What is out of date: in the terminal, and as a check that runs in Dagster."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

import pipelines.status as status_module
from assets.components import model_definitions, study_definitions
from assets.keys import StudyKeys, activations_key, observe_job_name
from assets.partitions import run_key
from assets.recording import StoreResource
from assets.stale_statuses import PartitionStatus, Status
from assets.up_to_date import status_definitions, status_table
from pipelines.chains import study_chain
from pipelines.cli import main
from pipelines.loading import ProjectFiles
from pipelines.runner import materialize_chain
from pipelines.status import StudyStatus, project_status, status_lines
from sae_core.config import StudyConfig
from tests.small_study import MODEL
from tests.tiny import make_model, model_config
from tests.whole_chain import TRAINED

KEYS, VARIANT = StudyKeys("tiny"), {"architecture": "topk", "d_sae": 48, "k": 4}
TRAINING = {"n_steps": 20, "batch_size": 256, "warmup_steps": 5, "sparsity_warmup_steps": 5, "checkpoints": []}


def study_config(**changes):
    fields = {
        "name": "tiny",
        "model": "tiny-llama",
        "hook": "model.layers.1",
        "variants": [VARIANT],
        "seeds": [0, 1],
        "training": TRAINING,
        "evaluation": {"n_loss_contexts": 4},
        "contexts": {"n_pool": 32},
        "explanations": {"min_activations": 3},
        "scoring": {"n_embedded": 1},
        "similarity": {"n_permutations": 9},
    }
    return StudyConfig.model_validate(fields | changes)


class World:
    """A tiny study in a Dagster instance and a store of its own."""

    def __init__(self, root, instance):
        self.root, self.instance, self.model = root, instance, model_config(root)

    def definitions(self, study):
        assets = dg.Definitions.merge(
            model_definitions(self.model, [study]),
            study_definitions(study, self.model),
            dg.Definitions(
                resources={"store": StoreResource(root=str(self.root / "store"))}, executor=dg.in_process_executor
            ),
        )
        return dg.Definitions.merge(assets, status_definitions([study], [], assets))

    def status(self, study):
        files = ProjectFiles(studies={"tiny": (study, self.model)}, synthetic={})
        return project_status(files, self.definitions(study), self.instance)

    def check(self, study):
        """The check, run by the job ``status``."""
        result = self.definitions(study).resolve_job_def("status").execute_in_process(instance=self.instance)
        assert result.success
        (found,) = result.get_asset_check_evaluations()
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("status")
    (root / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(root / "dagster")) as instance:
        world = World(root, instance)
        study = study_config()
        materialize_chain(world.definitions(study), instance, study_chain(study, world.model), lambda line: None)
        yield world


@pytest.fixture(autouse=True)
def own_store(request, monkeypatch):
    if "world" in request.fixturenames:
        monkeypatch.setenv("SAE_CONCORD_STORE", str(request.getfixturevalue("world").root / "store"))


def test_a_study_that_was_just_made_is_up_to_date(world):
    (found,) = world.status(study_config())
    assert found.is_up_to_date
    assert {each.status for each in found.partitions} == {Status.FRESH}
    first, last = status_lines([found])
    assert first.startswith("tiny: up to date (")
    assert last == "  automation: manual; `concord run tiny` makes it"
    assert f"  {KEYS.sae.to_user_string()}: all 2 fresh" in list(status_lines([found], everything=True))


def test_a_study_of_which_nothing_was_made_takes_two_lines(world):
    with dg.DagsterInstance.ephemeral() as empty:
        files = ProjectFiles(studies={"tiny": (study_config(), world.model)}, synthetic={})
        found = project_status(files, world.definitions(study_config()), empty)
    assert list(status_lines(found)) == [
        "tiny: never made (13 missing)",
        "  automation: manual; `concord run tiny` makes it",
    ]
    assert len(list(status_lines(found, everything=True))) == 11


def test_the_check_runs_in_a_job_of_its_own_and_with_the_report_and_warns_only(world):
    made = world.instance.get_latest_materialization_event(KEYS.report)
    records = world.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(KEYS.report, "up_to_date"), limit=9
    )
    assert made.run_id in {record.run_id for record in records}
    found = world.check(study_config())
    assert found.passed
    assert found.metadata["stale"].value == 0
    assert found.metadata["fresh"].value > 5
    late = world.check(study_config(seeds=[0, 1, 2]))
    assert (late.passed, late.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert late.metadata["missing"].value == 4
    assert f"| tiny/sae [2\\|{TRAINED}] | missing | never materialized |" in late.metadata["partitions"].value


def test_a_new_seed_is_missing_and_what_compares_the_seeds_is_out_of_date(world):
    (found,) = world.status(study_config(seeds=[0, 1, 2]))
    by_name = {(each.key, each.partition): each for each in found.partitions}
    assert by_name[KEYS.sae, run_key(TRAINED, 2)].status is Status.MISSING
    assert by_name[KEYS.sae, run_key(TRAINED, 0)].status is Status.FRESH
    assert by_name[KEYS.consistency, TRAINED].status in (Status.STALE, Status.BEHIND)
    assert by_name[KEYS.report, None].status is not Status.FRESH
    assert not found.is_up_to_date


def test_new_weights_make_the_activations_stale_and_everything_else_wait(world):
    kept = world.root / "kept"
    shutil.copytree(world.root / "model", kept)
    observe = world.definitions(study_config()).resolve_job_def(observe_job_name("tiny-llama"))
    try:
        make_model(world.root / "model", seed=1)
        assert observe.execute_in_process(instance=world.instance).success
        (found,) = world.status(study_config())
        states = {each.key: each.status for each in found.partitions}
        assert states.pop(activations_key("tiny-llama", "model.layers.1")) is Status.STALE
        assert set(states.values()) == {Status.BEHIND}
        shown = list(status_lines([found]))
        assert shown[0].startswith("tiny: out of date (1 stale, ")
        assert any("activations/tiny-llama" in line and "stale (model/tiny-llama: " in line for line in shown)
    finally:
        shutil.rmtree(world.root / "model")
        kept.rename(world.root / "model")
        assert observe.execute_in_process(instance=world.instance).success


def test_artifacts_that_the_store_lost_are_named(world):
    record = world.instance.get_latest_data_version_record(KEYS.sae, False, run_key(TRAINED, 1))
    folder = Path(record.asset_materialization.metadata["path"].value)
    folder.rename(world.root / "lost")
    try:
        (found,) = world.status(study_config())
        assert not found.is_up_to_date
        (line,) = found.gone
        assert line.startswith(f"tiny/sae [1|{TRAINED}]: sae: no artifact in ")
        assert any(shown.startswith("  gone from the store: ") for shown in status_lines([found]))
    finally:
        (world.root / "lost").rename(folder)


def test_what_would_be_made_by_itself_is_said(world):
    (found,) = world.status(study_config(automation="when_stale"))
    assert found.policy == "when_stale"
    assert found.sensor == "sensor automation_tiny_llama is on, but no daemon is running (make ui)"


def test_a_study_that_does_not_exist_is_named_with_those_that_do():
    files = ProjectFiles(studies={"tiny": (study_config(), MODEL)}, synthetic={})
    missing = pytest.raises(ValueError, match="there is no study 'other'; there are tiny")
    with dg.DagsterInstance.ephemeral() as instance, missing:
        project_status(files, dg.Definitions(), instance, "other")


def test_the_command_shows_lines_or_json_and_ends_as_told(monkeypatch):
    states = [
        PartitionStatus(KEYS.sae, "0|v", Status.FRESH, ()),
        PartitionStatus(KEYS.sae, "1|v", Status.MISSING, ("never materialized",)),
        PartitionStatus(KEYS.consistency, "v", Status.STALE, ("settings",)),
    ]
    found = [StudyStatus("tiny", "manual", None, states)]
    monkeypatch.setattr(status_module, "read_status", lambda study: found)
    shown = CliRunner().invoke(main, ["status"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines() == [
        "tiny: out of date (1 fresh, 1 missing, 1 stale)",
        "  tiny/sae",
        "    1|v: missing (never materialized)",
        "  tiny/consistency: stale (settings)",
        "  automation: manual; `concord run tiny` makes it",
    ]
    assert CliRunner().invoke(main, ["status", "--exit-code"]).exit_code == 1
    (as_json,) = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)
    assert as_json["up_to_date"] is False
    assert {"asset", "partition", "status", "causes"} == set(as_json["partitions"][0])


def test_a_long_table_is_cut_and_says_how_much_is_left():
    late = [PartitionStatus(KEYS.sae, str(n), Status.STALE, ("a", "b", "c", "d")) for n in range(130)]
    lines = status_table(late).splitlines()
    assert len(lines) == 2 + 100 + 2
    assert lines[2] == "| tiny/sae [0] | stale | a; b; c; 1 more |"
    assert lines[-1] == "30 more; `concord status --all` lists all."
    assert status_table([]) == "Everything is as it would be made now."


def test_without_studies_there_is_no_job():
    assert not status_definitions([], [], dg.Definitions()).jobs
    study = study_config(model=MODEL.name)
    assets = dg.Definitions.merge(model_definitions(MODEL), study_definitions(study, MODEL))
    (schedule,) = status_definitions([study], [], assets).schedules
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
