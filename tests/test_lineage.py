import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from sae_core.lineage import (
    collect_garbage,
    differences,
    find_garbage,
    prov_document,
    trace,
    tree_text,
    verify_chain,
)
from sae_core.lineage.garbage import kinds
from sae_core.store import MANIFEST, ArtifactStore

MODEL, CORPUS = "a" * 64, "b" * 64


def make(store, kind, text, inputs=None, code="1", **upstream):
    def build(folder):
        (folder / "data.txt").write_text(text)
        return {}

    return store.get_or_build(kind, build, code_version=code, inputs=inputs or {}, upstream=upstream)


def make_chain(store, lr=0.1, corpus=CORPUS, words="some"):
    """contexts -> activations -> two SAEs -> consistency; contexts are also upstream of the SAEs."""
    contexts = make(store, "contexts", words, {"model": MODEL, "corpus": corpus})
    activations = make(store, "activations", f"acts of {words}", {"hook": "h"}, contexts=contexts)
    saes = {
        f"sae seed {seed}": make(
            store,
            "sae",
            f"sae {seed} {lr} {words}",
            {"training": {"lr": lr}, "seed": seed},
            activations=activations,
            contexts=contexts,
        )
        for seed in (0, 1)
    }
    return make(store, "consistency", f"pw {lr} {words}", {"config": {"signed": True}}, **saes)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


def test_a_chain_has_every_artifact_once_down_to_the_text(store):
    lineage = trace(store, make_chain(store))
    assert [kind for kind, _ in lineage.nodes] == ["consistency", "sae", "sae", "activations", "contexts"]
    assert lineage.root.key == next(iter(lineage.nodes))


def test_the_tree_leads_from_a_result_to_the_digests_of_model_and_text(store):
    text = tree_text(trace(store, make_chain(store)))
    first, *_ = lines = text.splitlines()
    assert first.startswith("consistency/")
    assert any("sae seed 1: sae/" in line for line in lines)
    (contexts,) = [line for line in lines if "model aaaaaaaaaaaa" in line and "(as above)" not in line]
    assert "corpus bbbbbbbbbbbb" in contexts
    assert "made 2" in contexts
    assert sum("activations/" in line for line in lines) == 2
    assert sum("(as above)" in line for line in lines) == 3  # the activations once, the contexts twice


def test_settings_are_shown_on_request(store):
    lineage = trace(store, make_chain(store))
    assert '{"lr": 0.1}' not in tree_text(lineage)
    assert 'training: {"lr": 0.1}' in tree_text(lineage, settings=True)


def test_prov_names_what_was_used_and_generated(store):
    consistency = make_chain(store)
    document = json.loads(prov_document(trace(store, consistency)).serialize(format="json"))
    assert len(document["entity"]) == 5 + 2
    assert len(document["activity"]) == len(document["wasGeneratedBy"]) == 5
    assert len(document["wasDerivedFrom"]) == 2 + 2 * 2 + 1
    assert len(document["used"]) == 7 + 2
    name = f"artifact:consistency.{consistency.manifest.fingerprint}"
    assert document["entity"][name]["concord:content_sha256"] == consistency.content


def test_an_untouched_chain_verifies(store):
    assert verify_chain(trace(store, make_chain(store))) == []


def test_what_is_missing_or_altered_is_named(store):
    consistency = make_chain(store)
    lineage = trace(store, consistency)
    (contexts,) = [node.artifact for node in lineage.nodes.values() if node.entry.kind == "contexts"]
    (contexts.path / "data.txt").write_text("other")
    sae = next(node.artifact for node in lineage.nodes.values() if node.entry.kind == "sae")
    store.remove(sae)
    wrong = verify_chain(trace(store, consistency))
    assert f"sae/{sae.manifest.fingerprint}: missing from the store" in wrong
    assert any(line.startswith(f"contexts/{contexts.manifest.fingerprint}: data.txt has ") for line in wrong)
    assert "MISSING from the store" in tree_text(trace(store, consistency))


def test_content_that_was_put_in_place_of_what_was_used_is_named(store):
    consistency = make_chain(store)
    sae = next(node.artifact for node in trace(store, consistency).nodes.values() if node.entry.kind == "sae")
    manifest = json.loads((sae.path / MANIFEST).read_text()) | {"content": "c" * 64}
    (sae.path / MANIFEST).write_text(json.dumps(manifest))
    assert any("holds content cccccccccccc, but" in line for line in verify_chain(trace(store, consistency)))
    assert "NOT THE ONE USED" in tree_text(trace(store, consistency))


def test_a_changed_setting_upstream_is_the_only_difference_and_says_where(store):
    a, b = make_chain(store, lr=0.1), make_chain(store, lr=0.2)
    found = {(each.where, each.what, each.a, each.b) for each in differences(store, a, b)}
    assert found == {((f"sae seed {seed}",), "training.lr", "0.1", "0.2") for seed in (0, 1)}


def test_a_changed_text_is_followed_to_where_it_came_in_and_told_once(store):
    a, b = make_chain(store), make_chain(store, corpus="d" * 64, words="other")
    (found,) = differences(store, a, b)
    assert (found.where[-1], found.what, found.a, found.b) == ("contexts", "corpus", CORPUS, "d" * 64)
    assert str(found).startswith("sae seed 0 > ")


def test_equal_results_do_not_differ_and_other_kinds_are_refused(store):
    a = make_chain(store)
    assert differences(store, a, a) == []
    sae = store.upstream(a)["sae seed 0"]
    with pytest.raises(ValueError, match="of one kind can be compared: got consistency and sae"):
        differences(store, a, sae)


def test_one_more_seed_and_another_code_version_are_differences(store):
    a = make(store, "report", "a", code="1", one=make(store, "sae", "x"))
    b = make(store, "report", "b", code="2", one=make(store, "sae", "x"), two=make(store, "sae", "y", {"seed": 1}))
    assert [each.what for each in differences(store, a, b)] == ["code version", "two"]


def age(artifact, days):
    path = artifact.path / MANIFEST
    created = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": created}))


def test_garbage_is_what_no_result_was_made_from_and_is_old_enough(store):
    kept, loose = make_chain(store), make_chain(store, lr=0.5)
    model = make(store, "language_model", "weights")
    for artifact in store.artifacts():
        age(artifact, days=3)
    fresh = make(store, "sae", "new", {"seed": 9})
    found = find_garbage(store, [kept])
    assert {artifact.manifest.fingerprint for artifact in found.artifacts} == {
        loose.manifest.fingerprint,
        *(entry.fingerprint for name, entry in loose.manifest.upstream.items()),
    }
    assert kinds(found.artifacts)["sae"][0] == 2
    assert found.n_bytes == sum(e.size for a in found.artifacts for e in a.manifest.files.values())
    assert find_garbage(store, [kept], older_than_days=5.0).artifacts == []
    collect_garbage(store, found)
    left = {artifact.manifest.fingerprint for artifact in store.artifacts()}
    assert {fresh.manifest.fingerprint, model.manifest.fingerprint, kept.manifest.fingerprint} <= left
    assert verify_chain(trace(store, kept)) == []
    assert len(left) == found.n_kept


def test_staging_of_builds_that_were_given_up_is_garbage(store):
    make_chain(store)
    old, young = store.scratch / "sae" / "old", store.scratch / "sae" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_text("x" * 10)
    past = time.time() - 5 * 86_400
    for path in (old / "part", old):
        os.utime(path, (past, past))
    found = find_garbage(store, list(store.artifacts()))
    assert found.staging == [old]
    collect_garbage(store, found)
    assert not old.exists()
    assert young.exists()


def test_artifacts_of_a_remote_store_can_be_removed(tmp_path):
    store = ArtifactStore("memory://lineage-test", scratch=tmp_path)
    made = make(store, "sae", "x")
    assert (made.path / "data.txt").read_text() == "x"
    store.remove(made)
    assert store.get("sae", made.manifest.fingerprint) is None
    assert not made.path.exists()
