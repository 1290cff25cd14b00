"""The versions of a variant from Dagster's history, and on a tiny real model that was retrained."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

import assets.history
from assets.components import model_definitions, study_definitions
from assets.history import consistency_versions
from assets.keys import StudyKeys, activations_key
from assets.recording import StoreResource, record
from pipelines.chains import study_chain
from pipelines.runner import materialize_chain
from pipelines.tracing import find_artifact
from sae_core.config import StudyConfig
from sae_core.reproduce import reproduce
from sae_core.store import ArtifactStore
from tests.tiny import make_model, model_config

KEY = dg.AssetKey(["tiny", "consistency"])


def write(text):
    """A build that writes one file, so that another text is another content."""

    def build(folder):
        (folder / "data.txt").write_text(text)
        return {}

    return build


@pytest.fixture
def history(store):
    """``materialize(text, variant)`` records a consistency of that content; equal text, equal content."""
    with dg.DagsterInstance.ephemeral() as instance:

        def materialize(text, variant="k4", name=None):
            made = store.get_or_build(
                "consistency", write(text), code_version="1", inputs={"name": name or text, "variant": variant}
            )

            @dg.asset(key=KEY, partitions_def=dg.StaticPartitionsDefinition(["k4", "k8"]))
            def consistency():
                return record({"consistency": made}, {})

            dg.materialize([consistency], instance=instance, partition_key=variant)
            return made

        yield instance, materialize


def test_every_content_is_a_version_in_the_order_in_which_it_was_first_materialized(store, history):
    instance, materialize = history
    made = [materialize(text) for text in ("one", "two", "one", "three", "two")]
    materialize("of another variant", variant="k8")
    found = consistency_versions(instance, store, KEY, "k4")
    assert [version.content for version in found] == [made[place].content for place in (0, 1, 3)]
    assert [version.consistency.path for version in found] == [made[place].path for place in (0, 1, 3)]
    assert found[0].first < found[1].first < found[0].last < found[2].first == found[2].last < found[1].last


def test_a_history_of_several_pages_is_read_to_its_end(store, history, monkeypatch):
    instance, materialize = history
    monkeypatch.setattr(assets.history, "_PAGE", 2)
    made = [materialize(str(number)) for number in range(5)]
    assert [version.content for version in consistency_versions(instance, store, KEY, "k4")] == [
        each.content for each in made
    ]


def test_a_version_that_the_store_lost_is_listed_without_its_artifact(store, history):
    instance, materialize = history
    lost = materialize("one")
    materialize("two")
    store.remove(lost)
    first, second = consistency_versions(instance, store, KEY, "k4")
    assert (first.content, first.consistency) == (lost.content, None)
    assert second.consistency is not None


def test_a_version_is_found_wherever_one_of_its_materializations_leads_to_it(store, history):
    instance, materialize = history
    lost = materialize("one", name="first")
    kept = materialize("one", name="second")
    store.remove(lost)
    (only,) = consistency_versions(instance, store, KEY, "k4")
    assert only.consistency.path == kept.path


def test_nothing_materialized_is_no_version(store, history):
    assert consistency_versions(history[0], store, KEY, "k4") == []


@pytest.fixture(scope="module")
def retrained(tmp_path_factory):
    """A study that was run to its model versions, then with new weights of its model, then once more."""
    folder = tmp_path_factory.mktemp("retrained")
    model = model_config(folder)
    study = StudyConfig.model_validate(
        {
            "name": "tiny",
            "model": "tiny-llama",
            "hook": "model.layers.1",
            "variants": [{"architecture": "topk", "d_sae": 48, "k": 4}],
            "seeds": [0, 1, 2],
            "training": {
                "n_steps": 20, "batch_size": 256, "lr": 3e-3, "warmup_steps": 5, "sparsity_warmup_steps": 5,
                "checkpoints": [],
            },
            "evaluation": {"n_loss_contexts": 8},
            "consistency": {
                "n_null_draws": 1, "n_activation_tokens": 0, "signed": False, "joint": False, "merged": False,
                "core": False, "consensus": False,
            },
        }
    )  # fmt: skip
    definitions = dg.Definitions.merge(
        model_definitions(model),
        study_definitions(study, model),
        dg.Definitions(resources={"store": StoreResource(root=str(folder / "store"))}, executor=dg.in_process_executor),
    )
    chain = study_chain(study, model)
    keys = StudyKeys("tiny")
    until = (activations_key("tiny-llama", "model.layers.1"), keys.sae, keys.consistency, keys.model_versions)
    chain = replace(
        chain, steps=[step for step in chain.steps if step.key in until], table=lambda folder: "", preflight=None
    )
    (folder / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        materialize_chain(definitions, instance, chain, lambda line: None)
        make_model(folder / "model", seed=1)
        after = materialize_chain(definitions, instance, chain, lambda line: None)
        again = materialize_chain(definitions, instance, chain, lambda line: None)
        yield instance, ArtifactStore(folder / "store"), after, again


def of_model_versions(instance):
    """Metadata of the latest materialization."""
    record = instance.get_latest_data_version_record(StudyKeys("tiny").model_versions, False, "topk-d48-k4")
    return record.asset_materialization.metadata


def test_new_weights_are_compared_with_the_old_ones_and_the_ui_gets_the_numbers(retrained):
    instance, *_ = retrained
    found = of_model_versions(instance)
    assert (found["n_versions"].value, found["n_models"].value, found["n_missing"].value) == (2, 2, 0)
    for name in ("pw_mcc_across", "pw_mcc_same_seed", "within_old", "within_new", "null_sign_flip"):
        assert 0 < found[name].value <= 1
    assert found["difference_ci_low"].value <= found["difference"].value <= found["difference_ci_high"].value
    assert "| within old | within new |" in found["versions"].value
    assert "data:image/png;base64," in found["figure: model versions"].value


def test_both_versions_can_be_opened_by_their_fingerprint_and_lead_to_their_model(retrained):
    instance, store, *_ = retrained
    versions = consistency_versions(instance, store, StudyKeys("tiny").consistency, "topk-d48-k4")
    table = json.loads((Path(of_model_versions(instance)["path"].value) / "summary.json").read_text())["versions"]
    assert [row["content"] for row in table] == [version.content for version in versions]
    for row, version in zip(table, versions, strict=True):
        opened = find_artifact(store, f"consistency/{row['fingerprint'][:12]}")
        assert opened.content == version.content
        assert opened.summary["pw_mcc"] == row["pw_mcc"]
    assert table[0]["model"] != table[1]["model"]
    assert table[0]["corpus"] == table[1]["corpus"]
    assert table[1]["differs"][0].startswith("model: ")


def test_materializing_the_same_again_is_no_new_version(retrained):
    _, _, after, again = retrained
    assert again.n_cache_hits == again.n_steps
    assert again.report == after.report


def test_versions_are_made_again_from_the_present_model_beside_what_a_former_one_gave(retrained, tmp_path):
    _, store, after, _ = retrained
    notes = []
    found = reproduce(store, store.open(after.report), ArtifactStore(tmp_path), everything=True, tell=notes.append)
    assert found.same
    kinds = Counter(each.before.manifest.kind for each in found.remade)
    assert kinds == {
        "contexts": 1,
        "activations": 1,
        "reference_losses": 1,
        "sae": 3,
        "evaluation": 3,
        "consistency": 1,
        "model_versions": 1,
    }
    (note,) = notes
    assert "results of a former model, is taken from the store as it is and not made again: consistency/" in note
    assert note.count("sae/") == 3
