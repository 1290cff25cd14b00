"""``concord lineage``, ``verify``, ``diff`` and ``gc``, on the history of a tiny pipeline."""

import json

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.recording import record
from pipelines.cli import main
from pipelines.project import dagster_home
from sae_core.store import ArtifactStore

PARTITIONS = dg.StaticPartitionsDefinition(["k4", "k8"])


@pytest.fixture
def concord(monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("SAE_CONCORD_STORE", str(tmp_path / "store"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


def make(store, kind, text, inputs, upstream=None):
    def build(folder):
        (folder / "data.txt").write_text(text)
        return {}

    return store.get_or_build(kind, build, code_version="1", inputs=inputs, upstream=upstream)


@pytest.fixture
def ran(concord, tmp_path):
    """A text, and a result of it for each of two settings; and an artifact that no run refers to."""
    store = ArtifactStore(tmp_path / "store")

    @dg.asset(key=["tiny", "text"])
    def text():
        return record({"text": make(store, "contexts", "words", {"model": "a" * 64, "corpus": "b" * 64})}, {})

    @dg.asset(key=["tiny", "result"], partitions_def=PARTITIONS)
    def result(context: dg.AssetExecutionContext):
        upstream = {"text": make(store, "contexts", "words", {"model": "a" * 64, "corpus": "b" * 64})}
        k = context.partition_key
        made = {
            name: make(store, kind, f"{kind} {k}", {"variant": {"k": k}}, upstream)
            for name, kind in (("sae", "sae"), ("evaluation", "evaluation"))
        }
        return record(made, {})

    dagster_home()
    with dg.DagsterInstance.get() as instance:
        dg.materialize([text], instance=instance)
        for key in ("k4", "k8"):
            dg.materialize([result], instance=instance, partition_key=key)
    make(store, "sae", "nobody's", {"variant": {"k": "k9"}})
    return store


def test_an_asset_with_its_partition_leads_to_the_model_and_the_text(concord, ran):
    shown = concord("lineage", "tiny/result@k4")
    assert shown.exit_code == 0, shown.output
    first, second = shown.output.splitlines()
    assert first.startswith("sae/")
    assert second.startswith("└─ text: contexts/")
    assert "model aaaaaaaaaaaa  corpus bbbbbbbbbbbb" in second
    assert concord("lineage", "tiny/result@k4:evaluation").output.startswith("evaluation/")
    assert concord("lineage", "tiny/text").output.startswith("contexts/")
    assert '"k": "k4"' in concord("lineage", "tiny/result@k4", "--settings").output


def test_a_folder_and_the_beginning_of_a_fingerprint_name_an_artifact_too(concord, ran):
    artifact = next(ran.artifacts("evaluation"))
    expected = f"evaluation/{artifact.manifest.fingerprint}"
    assert concord("lineage", str(artifact.path)).output.startswith(expected)
    assert concord("lineage", expected[:19]).output.startswith(expected)


def test_lineage_as_json_is_prov(concord, ran):
    document = json.loads(concord("lineage", "tiny/result@k8", "--json").output)
    assert {"entity", "activity", "used", "wasGeneratedBy", "wasDerivedFrom"} <= set(document)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny/result", "name a partition, as in ASSET@PARTITION; materialized are k4, k8"),
        ("tiny/result@k16", "partition 'k16' was never materialized; materialized are k4, k8"),
        ("tiny/result@k4:weights", "tiny/result has no artifact 'weights'; it has sae, evaluation"),
        ("tiny/nothing", "nothing is called tiny/nothing"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(concord, ran, name, message):
    shown = concord("lineage", name)
    assert shown.exit_code == 1
    assert message in shown.output


def test_an_untouched_chain_verifies_and_an_altered_one_does_not(concord, ran):
    assert "2 artifacts are as they were made" in concord("verify", "tiny/result@k4").output
    (next(ran.artifacts("contexts")).path / "data.txt").write_text("other")
    shown = concord("verify", "tiny/result@k4")
    assert shown.exit_code == 1
    assert "data.txt has sha256" in shown.output
    assert "remove the folders that are named and materialize their assets again" in shown.output


def test_a_result_whose_folder_is_gone_says_what_to_do(concord, ran):
    for artifact in list(ran.artifacts("sae")):
        ran.remove(artifact)
    shown = concord("lineage", "tiny/result@k4")
    assert shown.exit_code == 1
    assert "the store was moved or cleaned; materialize its asset again" in shown.output


def test_diff_says_in_which_setting_two_results_differ(concord, ran):
    assert concord("diff", "tiny/result@k4", "tiny/result@k8").output == "variant.k: k4 | k8\n"
    assert concord("diff", "tiny/result@k4", "tiny/result@k4").output == "the same content\n"
    assert "of one kind can be compared" in concord("diff", "tiny/result@k4", "tiny/text").output


def test_gc_shows_what_no_run_refers_to_and_removes_it_only_when_told(concord, ran):
    before = list(ran.artifacts())
    shown = concord("gc", "--older-than", "0")
    assert "sae: 1, " in shown.output
    assert "1 artifacts and 0 unfinished builds" in shown.output
    assert "nothing was touched" in shown.output
    assert len(list(ran.artifacts())) == len(before)
    assert "removed" in concord("gc", "--older-than", "0", "--delete").output
    assert len(list(ran.artifacts())) == len(before) - 1
    assert "2 artifacts are as they were made" in concord("verify", "tiny/result@k8").output
    assert "0 artifacts and 0 unfinished builds" in concord("gc", "--older-than", "0").output


def test_what_is_young_stays(concord, ran):
    assert "0 artifacts and 0 unfinished builds" in concord("gc").output
