"""Every kind of artifact is made again from its manifest alone, and compared."""

import json
import shutil
from collections import Counter

import pytest
import torch
from click.testing import CliRunner

from pipelines.cli import main
from sae_core.config import ModelConfig
from sae_core.explanation_chain import EXPLANATION_CODE_VERSION
from sae_core.recipes import recipe
from sae_core.reproduce import STAGES, CannotReproduce, reproduce
from sae_core.store import MANIFEST, ArtifactStore
from sae_core.stored_files import verify
from sae_core.synthetic_chain import SYNTHETIC_CODE_VERSION
from tests.test_language_models import folder, gguf  # noqa: F401 - fixtures
from tests.tiny import make_model
from tests.whole_chain import make_world

GGUF_STAGE = "language_model"
KINDS = {
    "activations", "consistency", "contexts", "evaluation", "explanation_scores", "explanation_similarity",
    "explanations", "feature_contexts", "model_versions", "reference_losses", "report", "reproduction", "sae",
    "synthetic_experiment", "synthetic_point",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def into(tmp_path):
    return ArtifactStore(tmp_path / "again")


def copy_of(world, tmp_path):
    """The store, to be altered."""
    shutil.copytree(world.store.root.path, tmp_path / "store")
    return ArtifactStore(tmp_path / "store")


def first(store, kind, stage=None):
    found = store.artifacts(kind)
    return next(each for each in found if stage in (None, each.manifest.recipe["stage"]))


def alter(store, artifact, **fields):
    path = artifact.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return store.get(artifact.manifest.kind, artifact.manifest.fingerprint)


def test_the_world_has_every_kind_and_every_stage_but_a_converted_model(world):
    made = Counter(artifact.manifest.recipe["stage"] for artifact in world.store.artifacts())
    assert {artifact.manifest.kind for artifact in world.store.artifacts()} == KINDS
    assert set(made) == set(STAGES) - {GGUF_STAGE}


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {GGUF_STAGE}))
def test_every_stage_comes_out_the_same_from_what_lies_upstream(world, into, stage):
    for artifact in world.store.artifacts():
        if artifact.manifest.recipe["stage"] == stage:
            notes = []
            found = reproduce(world.store, artifact, into, tell=notes.append)
            assert found.same, str(found.remade[0])
            assert [each.was_there for each in found.remade] == [False]
            assert notes == []


def test_only_what_was_made_is_left(world, into):
    reproduce(world.store, first(world.store, "explanations"), into)
    (left,) = into.artifacts()
    assert left.manifest.kind == "explanations"
    assert not (into.root / "replies").exists()


def test_a_whole_chain_is_made_again_from_the_model_and_the_text(world, into):
    found = reproduce(world.store, first(world.store, "explanation_similarity"), into, everything=True)
    kinds = [each.before.manifest.kind for each in found.remade]
    assert found.same
    assert kinds[:2] == ["contexts", "activations"]
    assert kinds[-1] == "explanation_similarity"
    assert Counter(kinds)["sae"] == 2
    assert len(list(into.artifacts())) == len(kinds)


def test_explainers_in_another_order_are_another_comparison_with_another_primary_measure(world, tmp_path):
    store, study, stage = copy_of(world, tmp_path), world.study, "explanation_similarity"
    artifact = first(store, stage)
    arguments = artifact.manifest.recipe["arguments"]
    upstream = store.upstream(artifact)
    again = STAGES[stage](store, arguments, upstream, lambda *_: None)
    assert again.cache_hit
    turned = study.explanations.model_copy(update={"explainers": study.explanations.explainers[::-1]})
    arguments = recipe(
        stage,
        study=study.model_copy(update={"explanations": turned}),
        runs=arguments["runs"],
        explainers=arguments["explainers"][::-1],
    )["arguments"]
    other = STAGES[stage](store, arguments, upstream, lambda *_: None)
    assert [other.cache_hit, other.summary["primary"]] == [False, "embedding:local"]
    assert artifact.summary["primary"] == "embedding:lexical"


def test_a_converted_model_is_made_again(gguf, store, into):  # noqa: F811
    from sae_core.model_sources import make_language_model

    source, _ = gguf
    made = make_language_model(store, source)
    assert made.manifest.recipe["stage"] == GGUF_STAGE
    assert reproduce(store, made, into).same


def test_a_chain_that_was_killed_goes_on_and_says_what_was_there(world, into):
    artifact = first(world.store, "evaluation")
    reproduce(world.store, first(world.store, "contexts"), into)
    found = reproduce(world.store, artifact, into, everything=True)
    assert found.same
    assert {each.before.manifest.kind for each in found.remade if each.was_there} == {"contexts"}
    assert "same (made before, 2" in str(found.remade[0])


def test_other_content_is_told_with_files_and_environment(world, into, tmp_path):
    store = copy_of(world, tmp_path)
    artifact = first(store, "consistency")
    files = {name: entry.model_dump() for name, entry in artifact.manifest.files.items()}
    files["summary.json"]["sha256"] = "0" * 64
    environment = artifact.manifest.environment | {"numpy": "0.1"}
    altered = alter(store, artifact, files=files, content="0" * 64, environment=environment)
    (remade,) = reproduce(store, altered, into).remade
    assert not remade.same
    assert remade.different_files == ["summary.json"]
    assert remade.different_environment["numpy"][0] == "0.1"
    assert "DIFFERENT" in str(remade)
    assert "numpy: 0.1 | " in str(remade)


def test_a_report_that_differs_because_of_the_code_above_it_says_so(world, into, monkeypatch):
    monkeypatch.setitem(EXPLANATION_CODE_VERSION, "explanation_scores", "99")
    found = reproduce(world.store, world.report, into, everything=True)
    (report,) = [each for each in found.remade if not each.same]
    assert report.before.manifest.kind == "report"
    assert report.renamed_upstream
    assert all("score" in name for name in report.renamed_upstream)
    assert "made from equal content of other fingerprints" in str(report)


def test_another_version_of_the_code_is_said_beforehand(world, into, monkeypatch):
    monkeypatch.setitem(SYNTHETIC_CODE_VERSION, "synthetic_point", "99")
    notes = []
    found = reproduce(world.store, first(world.store, "synthetic_point"), into, tell=notes.append)
    assert found.same  # it is the same code
    (note,) = notes
    assert "was made by version 1 of its code" in note
    assert "this is version 99: the result may differ" in note


@pytest.mark.parametrize("stage", ["contexts", "activations", "evaluation", "reference_losses", "feature_contexts"])
def test_another_model_is_refused_before_anything_is_made(world, into, stage):
    place, kept = world.folder / "model", world.folder / "kept"
    shutil.copytree(place, kept)
    try:
        make_model(place, seed=1)
        with pytest.raises(CannotReproduce, match=r"model .*, which is .* now: put back what it was"):
            reproduce(world.store, first(world.store, stage), into)
        assert list(into.artifacts()) == []
    finally:
        shutil.rmtree(place)
        kept.rename(place)


def test_another_text_other_weights_of_a_published_sae_and_a_vanished_model_are_refused(world, into):
    corpus = world.folder / "corpus.jsonl"
    text = corpus.read_text()
    weights = next((world.folder / "published0").glob("*.safetensors"))
    content = weights.read_bytes()
    try:
        corpus.write_text(text + '{"text": "more"}\n')
        with pytest.raises(CannotReproduce, match=r"contexts/\w+ was made with corpus .*, which is .* now"):
            reproduce(world.store, first(world.store, "activations"), into)
        corpus.write_text(text)
        weights.write_bytes(content[:-4] + b"abcd")
        published = [each for each in world.store.artifacts("sae") if "files" in each.manifest.inputs]
        (altered,) = [each for each in published if "published0" in each.summary["location"]]
        with pytest.raises(CannotReproduce, match=r"was made with files .*, which is .* now"):
            reproduce(world.store, altered, into)
    finally:
        corpus.write_text(text)
        weights.write_bytes(content)
    (world.folder / "model").rename(world.folder / "moved")
    try:
        with pytest.raises(CannotReproduce, match="no language model in"):
            reproduce(world.store, first(world.store, "contexts"), into)
    finally:
        (world.folder / "moved").rename(world.folder / "model")


def test_an_artifact_without_a_recipe_says_what_to_do_and_gets_one(world, into, tmp_path):
    store = copy_of(world, tmp_path)
    artifact = first(store, "synthetic_point")
    fields = json.loads((artifact.path / MANIFEST).read_text())
    kept = fields.pop("recipe")
    (artifact.path / MANIFEST).write_text(json.dumps(fields))
    old = store.get("synthetic_point", artifact.manifest.fingerprint)
    assert old.manifest.recipe is None
    with pytest.raises(CannotReproduce, match="before recipes were kept; materialize its asset again"):
        reproduce(store, old, into)
    again = STAGES["synthetic_point"](store, kept["arguments"], {}, lambda *_: None)
    assert (again.cache_hit, again.manifest.recipe, again.content) == (True, kept, artifact.content)
    assert store.get("synthetic_point", artifact.manifest.fingerprint).manifest.recipe == kept
    assert verify(again) == []


def test_what_lies_upstream_must_be_there_as_it_was(world, into, tmp_path):
    store = copy_of(world, tmp_path)
    evaluation = first(store, "evaluation")
    sae = store.upstream(evaluation)["sae"]
    alter(store, sae, content="0" * 64)
    for everything in (False, True):
        with pytest.raises(CannotReproduce, match="has been replaced by other content"):
            reproduce(store, evaluation, into, everything)
    store.remove(sae)
    for everything in (False, True):
        with pytest.raises(CannotReproduce, match="is no longer in the store"):
            reproduce(store, evaluation, into, everything)


def test_settings_that_this_version_does_not_know_and_the_store_itself_are_refused(world, into, tmp_path):
    store = copy_of(world, tmp_path)
    artifact = first(store, "synthetic_point")
    arguments = artifact.manifest.recipe["arguments"]
    unknown = {"stage": "synthetic_point", "arguments": {"point": arguments["point"] | {"temperature": 1}}}
    with pytest.raises(CannotReproduce, match="does not know these settings"):
        reproduce(store, alter(store, artifact, recipe=unknown), into)
    with pytest.raises(CannotReproduce, match="was made by the stage 'distil'"):
        reproduce(store, alter(store, artifact, recipe={"stage": "distil", "arguments": {}}), into)
    with pytest.raises(CannotReproduce, match="is the store of the artifact"):
        reproduce(store, artifact, ArtifactStore(store.root.path))


def test_replies_are_taken_from_the_store_and_without_them_that_is_said(world, into, tmp_path):
    store = copy_of(world, tmp_path)
    explained = next(each for each in store.artifacts("explanations") if each.summary["kind"] == "local")
    replies = {path: path.stat().st_mtime_ns for path in store.replies.rglob("*.json")}
    assert replies
    assert reproduce(store, explained, into).same
    assert {path: path.stat().st_mtime_ns for path in store.replies.rglob("*.json")} == replies
    shutil.rmtree(store.replies)
    notes = []
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    assert reproduce(store, explained, elsewhere, tell=notes.append).same
    assert "a model is asked for all of them again" in notes[0]


def test_as_many_threads_are_used_as_then(world, into, tmp_path, monkeypatch):
    store = copy_of(world, tmp_path)
    sae = first(store, "sae", "sae")
    altered = alter(store, sae, environment=sae.manifest.environment | {"threads": "2"})
    (remade,) = reproduce(store, altered, into).remade
    assert remade.manifest.environment["threads"] == "2"
    assert torch.get_num_threads() == 1


def test_a_recipe_has_complete_settings_and_decides_nothing(world):
    model = world.model
    made = first(world.store, "contexts")
    assert made.manifest.recipe == recipe("contexts", model=model)
    assert ModelConfig.model_validate(made.manifest.recipe["arguments"]["model"]) == model
    assert "source" not in json.dumps(made.manifest.inputs)


def test_the_command_ends_with_0_only_if_all_is_the_same(world, tmp_path, monkeypatch):
    store = copy_of(world, tmp_path)
    monkeypatch.setenv("SAE_CONCORD_STORE", str(store.root.path))
    point = first(store, "synthetic_point")
    name = f"synthetic_point/{point.manifest.fingerprint[:8]}"
    shown = CliRunner().invoke(main, ["reproduce", name])
    assert shown.exit_code == 0, shown.output
    assert "1 made again, all the same" in shown.output
    assert list((store.scratch / "reproduce").iterdir()) == []
    alter(store, point, content="0" * 64)
    shown = CliRunner().invoke(main, ["reproduce", name, "--into", str(tmp_path / "kept")])
    assert shown.exit_code == 1
    assert "1 of 1 came out different" in shown.output
    assert len(list(ArtifactStore(tmp_path / "kept").artifacts())) == 1
