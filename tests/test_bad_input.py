"""What goes wrong around the project: each a clear message that says what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.keys import StudyKeys, activations_key
from assets.partitions import run_key
from assets.recording import StoreResource
from assets.stale_statuses import statuses_now
from pipelines.cli import main
from pipelines.project import dagster_home
from pipelines.runner import failure_reason
from pipelines.serving import AlreadyRuns, hold, missing_settings
from sae_core.store import MANIFEST
from tests.test_pipelines import study_config, world  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
TOPK = {"architecture": "topk", "d_sae": 48, "k": 4}
ACTIVATIONS = activations_key("tiny-llama", "model.layers.1")
SAE = StudyKeys("tiny").sae


def materialize(world, instance, key, partition=None, root=None, study=None):  # noqa: F811
    definitions = world.definitions(study or study_config(variants=[TOPK]))
    if root is not None:
        assets = [*(definitions.assets or [])]
        definitions = dg.Definitions(
            assets=assets, resources={"store": StoreResource(root=str(root))}, executor=dg.in_process_executor
        )
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[key], partition_key=partition, raise_on_error=False
    )


def reason(result):
    """As ``concord run`` and the jobs give it."""
    return failure_reason(result)


@pytest.fixture
def store(world, tmp_path):  # noqa: F811
    """Where the activations are."""
    world, instance = world
    world.run(study_config(variants=[TOPK]), instance, until="activations")
    return tmp_path / "store"


def test_a_store_that_was_emptied_is_named_with_the_asset_to_make_again(world, store):  # noqa: F811
    world, instance = world
    shutil.rmtree(store)
    told = reason(materialize(world, instance, SAE, run_key("topk-d48-k4", 0)))
    assert f"{ACTIVATIONS.to_user_string()}: no artifact in {store}" in told
    assert "materialize its asset again, or set SAE_CONCORD_STORE to where the store is now" in told


def test_a_store_that_was_moved_is_found_where_it_is_said_to_be(world, store, tmp_path):  # noqa: F811
    world, instance = world
    os.rename(store, tmp_path / "elsewhere")
    assert materialize(world, instance, SAE, run_key("topk-d48-k4", 0), root=tmp_path / "elsewhere").success


def test_a_manifest_that_is_none_is_named(world, store):  # noqa: F811
    world, instance = world
    (manifest,) = (store / "activations").glob(f"*/{MANIFEST}")
    manifest.write_text("{")
    told = reason(materialize(world, instance, SAE, run_key("topk-d48-k4", 0)))
    assert f"{manifest.parent}/{MANIFEST} is not a manifest" in told
    assert "delete the folder and materialize again" in told


def test_a_store_that_cannot_be_written_is_named_before_anything_is_made(world, tmp_path):  # noqa: F811
    world, instance = world
    (tmp_path / "file").write_text("no folder")
    told = reason(materialize(world, instance, ACTIVATIONS, root=tmp_path / "file" / "store"))
    assert f"the store cannot be written: {tmp_path}/file/store/" in told
    assert "set SAE_CONCORD_STORE to a folder of your own" in told


def test_a_model_that_vanished_is_named(world):  # noqa: F811
    world, instance = world
    shutil.rmtree(world.model.source.path)
    assert world.model.source.path in reason(materialize(world, instance, ACTIVATIONS))


def test_a_removed_seed_is_no_partition_any_more_and_its_results_stay(world, store):  # noqa: F811
    world, instance = world
    wide = study_config(variants=[TOPK], seeds=[0, 1, 2])
    assert materialize(world, instance, SAE, run_key("topk-d48-k4", 2), study=wide).success
    narrow = study_config(variants=[TOPK])
    with pytest.raises(dg.DagsterUnknownPartitionError, match=r"Could not find a partition with key `2\|topk-d48-k4`"):
        materialize(world, instance, SAE, run_key("topk-d48-k4", 2), study=narrow)
    record = instance.get_latest_data_version_record(SAE, False, run_key("topk-d48-k4", 2))
    assert Path(record.asset_materialization.metadata["path"].value).is_dir()
    shown = statuses_now(world.definitions(narrow), instance).of([SAE])
    assert [status.partition for status in shown] == ["0|topk-d48-k4", "1|topk-d48-k4"]


def test_a_second_daemon_on_one_home_is_refused_with_the_process_that_has_it(tmp_path, monkeypatch):
    program = f"from pathlib import Path; from pipelines.serving import hold; hold(Path({str(tmp_path)!r})); "
    # What holds it becomes another program, as `concord ui` becomes dagster.
    program += "import os, sys; print('held', flush=True); os.execv('/bin/sleep', ['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRuns, match=rf"already run on {tmp_path} \(process {first.pid}\)"):
            hold(tmp_path)
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        refused = CliRunner().invoke(main, ["ui"])
        assert refused.exit_code == 1
        assert f"(process {first.pid}): open their page, stop that process, or set DAGSTER_HOME" in refused.output
        first.kill()
    os.close(hold(tmp_path))


def test_a_home_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OSError, match="file/home cannot be written .*: set DAGSTER_HOME to a folder of your own"):
        dagster_home()


def test_settings_that_the_home_of_an_earlier_version_lacks_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nrun_monitoring: {enabled: true}\n")
    assert dagster_home() == tmp_path
    assert missing_settings(tmp_path) == ["nux", "run_retries", "concurrency"]
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", tmp_path)
    assert missing_settings(tmp_path) == []
    with dg.DagsterInstance.get() as instance:
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
