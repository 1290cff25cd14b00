"""The chain in Dagster, end to end, on a tiny random language model."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import torch

from assets.components import model_definitions, model_of, study_definitions
from assets.keys import StudyKeys, activations_key, model_key
from assets.partitions import run_key
from assets.recording import StoreResource
from pipelines.chains import study_chain
from pipelines.runner import StudyFailed, failure_reason, materialize_chain
from sae_core.architectures import build
from sae_core.config import StudyConfig, TopKConfig
from sae_core.formats import save_sae
from tests.tiny import make_model, model_config

ROOT = Path(__file__).resolve().parent.parent


def study_config(**changes):
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "model": "tiny-llama",
            "hook": "model.layers.1",
            "variants": [
                {"architecture": "topk", "d_sae": 48, "k": 4},
                {"architecture": "standard", "d_sae": 48, "l1_coefficient": 0.02},
            ],
            "seeds": [0, 1],
            "training": {
                "n_steps": 60,
                "batch_size": 256,
                "lr": 3e-3,
                "warmup_steps": 5,
                "sparsity_warmup_steps": 10,
                "log_every": 10,
                "checkpoints": [],
            },
            "evaluation": {"n_loss_contexts": 8},
            "contexts": {"n_pool": 64},
            "explanations": {"min_activations": 3},
            "scoring": {"n_embedded": 2},
            "similarity": {"n_permutations": 19},
        }
        | changes
    )


@pytest.fixture
def world(tmp_path):
    """A model, a corpus, a store and a Dagster instance of their own."""

    class World:
        def __init__(self):
            self.lines = []

        model = model_config(tmp_path)

        def definitions(self, study):
            return dg.Definitions.merge(
                model_definitions(self.model),
                study_definitions(study, self.model),
                dg.Definitions(
                    resources={"store": StoreResource(root=str(tmp_path / "store"))}, executor=dg.in_process_executor
                ),
            )

        def run(self, study, instance, until=None):
            """Every stage, or those up to the one of this name: each step costs about a second."""
            self.lines.clear()
            chain = study_chain(study, self.model)
            if until is not None:
                last = max(i for i, step in enumerate(chain.steps) if until in step.key.path)
                chain = replace(chain, steps=chain.steps[: last + 1], table=lambda folder: "")
            return materialize_chain(self.definitions(study), instance, chain, self.lines.append)

        def made(self):
            """Titles of the steps of the last run that were not cache hits."""
            return [line.split("] ")[1].rsplit(":", 1)[0] for line in self.lines if not line.endswith(": cached")]

    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield World(), instance


def test_the_whole_chain_runs_the_ui_gets_its_numbers_and_a_second_run_is_all_cache_hits(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}])
    first = world.run(study, instance)
    assert first.n_cache_hits == 0
    assert first.n_steps == len(study_chain(study, world.model).steps) == 1 + 2 + 2 + 3 * 2 + 1 + 1
    rows = json.loads((first.report / "table.json").read_text())
    assert [row["variant"] for row in rows] == ["topk-d48-k4"]
    assert "<html" in (first.report / "report.html").read_text()
    assert (first.report / "report.png").read_bytes().startswith(b"\x89PNG")
    _check_what_the_ui_gets(instance)
    second = world.run(study, instance)
    assert (second.n_cache_hits, second.report) == (second.n_steps, first.report)
    _check_what_the_checks_say(instance, world.definitions(study))


def _check_what_the_ui_gets(instance):
    keys = StudyKeys("tiny")
    record = instance.get_latest_data_version_record(keys.consistency, False, "topk-d48-k4")
    metadata = record.asset_materialization.metadata
    assert 0 < metadata["pw_mcc"].value <= 1
    folder = Path(metadata["path"].value)
    assert pq.read_table(folder / "features.parquet").num_rows == 2 * 48
    trained = instance.get_latest_data_version_record(keys.sae, False, run_key("topk-d48-k4", 1))
    curves = trained.asset_materialization.metadata
    assert curves["training/tokens_per_second"].value > 0
    assert [point.data["step"] for point in curves["training curves"].records] == [10, 20, 30, 40, 50, 60]
    explained = instance.get_latest_data_version_record(keys.explanations, False, run_key("topk-d48-k4", 1))
    assert explained.asset_materialization.metadata["n_explanations/lexical"].value > 0
    assert explained.asset_materialization.metadata["examples/lexical"].value.startswith("| feature | ")
    scores = instance.get_latest_data_version_record(keys.scores, False, run_key("topk-d48-k4", 1))
    assert 0 <= scores.asset_materialization.metadata["detection_auc/lexical"].value <= 1
    compared = instance.get_latest_data_version_record(keys.similarity, False, "topk-d48-k4")
    found = compared.asset_materialization.metadata
    for measure in ("embedding:lexical", "words", "activations"):
        assert 0 <= found[f"auc/{measure}"].value <= 1
    assert "1,423" in found["published beside ours"].value
    assert "data:image/png;base64," in found["figure: similarity of explanations"].value
    report = instance.get_latest_materialization_event(keys.report).asset_materialization.metadata
    assert report["table"].value.startswith("| ")
    assert "data:image/png;base64," in report["figure: report"].value


def _check_what_the_checks_say(instance, definitions):
    """Every declared check was evaluated on the real artifacts, and none that blocks failed."""
    found = {}
    for run in instance.get_runs():
        for record in instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records:
            evaluation = record.event_log_entry.dagster_event.event_specific_data
            found.setdefault(evaluation.asset_check_key, []).append(evaluation)
    assert set(found) == set(definitions.resolve_asset_graph().asset_check_keys)
    flat = [evaluation for evaluations in found.values() for evaluation in evaluations]
    assert {
        each.check_name for each in flat if each.severity == dg.AssetCheckSeverity.ERROR and not each.passed
    } == set()
    (drop,) = {e.metadata["expected"].value for key in found if key.name == "not_lower" for e in found[key]}
    assert drop == "no earlier one"  # a cache hit is no other result


def test_one_more_seed_makes_that_seed_and_what_depends_on_it(world):
    world, instance = world
    variants = [{"architecture": "topk", "d_sae": 48, "k": 4}]
    world.run(study_config(variants=variants), instance, until="explanation_similarity")
    world.run(study_config(variants=variants, seeds=[0, 1, 2]), instance)
    assert world.made() == [
        "SAE topk-d48-k4, seed 2",
        "consistency of topk-d48-k4",
        "model versions of topk-d48-k4",
        "contexts of topk-d48-k4, seed 2",
        "explanations of topk-d48-k4, seed 2",
        "explanation scores of topk-d48-k4, seed 2",
        "explanation similarity of topk-d48-k4",
        "report",
    ]


def test_pretrained_saes_get_the_same_assets_as_trained_ones(world, tmp_path):
    world, instance = world
    folders = [str(tmp_path / f"published{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        save_sae(build(TopKConfig(d_sae=40, k=4), 32, seed), folder)
    variants = [{"architecture": "pretrained", "name": "published", "saes": folders}]
    study = study_config(variants=variants, training=None)
    outcome = world.run(study, instance)
    rows = json.loads((outcome.report / "table.json").read_text())
    assert [row["variant"] for row in rows] == ["pretrained-published"]
    record = instance.get_latest_data_version_record(StudyKeys("tiny").sae, False, run_key("pretrained-published", 1))
    assert record.asset_materialization.metadata["training/format"].value == "saelens"
    again = world.run(study, instance, until="sae")
    assert again.n_cache_hits == again.n_steps
    save_sae(build(TopKConfig(d_sae=40, k=4), 32, 7), folders[1])  # another SAE at the same place is another artifact
    world.run(study, instance, until="sae")
    assert "SAE pretrained-published, seed 1" in world.made()
    assert "SAE pretrained-published, seed 0" not in world.made()


def test_a_pretrained_sae_of_another_model_is_refused_by_its_width(world, tmp_path):
    world, instance = world
    folders = [str(tmp_path / f"published{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        save_sae(build(TopKConfig(d_sae=40, k=4), 16, seed), folder)
    variants = [{"architecture": "pretrained", "name": "published", "saes": folders}]
    with pytest.raises(StudyFailed, match="reads activations of width 16, those of the study have width 32"):
        world.run(study_config(variants=variants, training=None), instance)


def test_checkpoints_show_agreement_over_training(world):
    world, instance = world
    training = study_config().training.model_dump() | {"checkpoints": [0, 0.5]}
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}], training=training)
    world.run(study, instance, until="consistency")
    record = instance.get_latest_data_version_record(StudyKeys("tiny").consistency, False, "topk-d48-k4")
    folder = Path(record.asset_materialization.metadata["path"].value)
    table = pq.read_table(folder / "over_training.parquet").to_pydict()
    assert table["step"] == [0, 30, 60]
    assert table["pw_mcc"][2] == pytest.approx(record.asset_materialization.metadata["pw_mcc"].value)
    assert not record.asset_materialization.metadata["shared_initialisation"].value


def test_runs_that_differ_in_the_order_of_the_data_alone_are_flagged_for_their_common_start(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}], vary=["order"])
    world.run(study, instance, until="consistency")
    record = instance.get_latest_data_version_record(StudyKeys("tiny").consistency, False, "topk-d48-k4")
    assert record.asset_materialization.metadata["shared_initialisation"].value


def test_one_more_variant_leaves_the_others_alone(world):
    world, instance = world
    topk = {"architecture": "topk", "d_sae": 48, "k": 4}
    world.run(study_config(variants=[topk]), instance, until="consistency")
    world.run(study_config(variants=[topk, topk | {"k": 5}]), instance, until="consistency")
    assert [title for title in world.made() if "k4" in title] == []


def test_new_weights_make_everything_anew_and_keep_the_old_results(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}])
    before = world.run(study, instance, until="consistency")
    make_model(Path(world.model.source.path), seed=1)
    after = world.run(study, instance, until="consistency")
    assert (after.n_cache_hits, before.report.exists()) == (0, True)
    assert after.report != before.report


def test_the_data_version_of_an_asset_is_the_content_and_not_the_run(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}])
    world.run(study, instance, until="activations")
    key = activations_key("tiny-llama", "model.layers.1")
    versions = []
    for _ in range(2):
        record = instance.get_latest_data_version_record(key, False, None)
        versions.append(record.asset_materialization.tags["dagster/data_version"])
        world.run(study, instance, until="activations")
    assert versions[0] == versions[1]


def test_a_launch_form_says_how_a_run_works_and_changes_nothing_it_makes(world, tmp_path, monkeypatch):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}])
    job = world.definitions(study).resolve_implicit_global_asset_job_def()
    activations = activations_key("tiny-llama", "model.layers.1")

    def launch(key, partition=None, **form):
        return job.execute_in_process(
            instance=instance,
            asset_selection=[key],
            partition_key=partition,
            run_config={"ops": {key.to_python_identifier(): {"config": form}}},
            raise_on_error=False,
        )

    def cached(result):
        (made,) = result.get_asset_materialization_events()
        return made.materialization.metadata["cache_hit"].value

    sae = (StudyKeys("tiny").sae, run_key("topk-d48-k4", 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "set device to auto or cpu" in failure_reason(launch(activations, device="cuda"))
    assert not cached(launch(activations, device="cpu"))
    assert cached(launch(activations))
    assert not cached(launch(*sae, device="cpu", resume_minutes=0, watch=["tensorboard"]))
    assert list((tmp_path / "store" / "tensorboard").rglob("events.*"))
    assert cached(launch(*sae))
    with pytest.raises(dg.DagsterInvalidConfigError, match="resume_minutez"):
        launch(*sae, resume_minutez=1)


def test_an_artifact_deleted_behind_dagster_is_named_and_not_papered_over(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 4}])
    world.run(study, instance, until="sae")
    record = instance.get_latest_data_version_record(StudyKeys("tiny").sae, False, run_key("topk-d48-k4", 0))
    shutil.rmtree(record.asset_materialization.metadata["path"].value)
    job = world.definitions(study).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[StudyKeys("tiny").consistency],
        partition_key="topk-d48-k4",
        raise_on_error=False,
    )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "the store was moved or cleaned; materialize its asset again" in str(failure.step_failure_data)


def test_explanations_wait_for_the_matches_only_where_a_sample_of_pairs_is_explained(world):
    world, _ = world
    chat = {"kind": "openai", "name": "chat", "model": "m", "n_pairs": 10}
    keys = StudyKeys("tiny")
    for explainers, waits in (([{"kind": "lexical"}], False), ([{"kind": "lexical"}, chat], True)):
        graph = world.definitions(study_config(explanations={"explainers": explainers})).resolve_asset_graph()
        assert (keys.consistency in graph.get(keys.explanations).parent_keys) == waits


def test_explanations_that_lack_an_explainer_of_the_study_are_not_compared_without_it(world):
    world, instance = world
    variants = [{"architecture": "topk", "d_sae": 48, "k": 4}]
    world.run(study_config(variants=variants), instance, until="explanations")
    two = {"min_activations": 3, "explainers": [{"kind": "lexical"}, {"kind": "lexical", "name": "second"}]}
    job = world.definitions(study_config(variants=variants, explanations=two)).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[StudyKeys("tiny").similarity],
        partition_key="topk-d48-k4",
        raise_on_error=False,
    )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "the explanations of seed 0 were made without second" in str(failure.step_failure_data)


def test_a_failed_step_says_what_was_expected_and_keeps_what_was_made(world):
    world, instance = world
    study = study_config(variants=[{"architecture": "topk", "d_sae": 48, "k": 47}])
    world.run(study, instance, until="sae")
    bad = study_config(training=study.training.model_dump() | {"batch_size": 10_000_000})
    with pytest.raises(StudyFailed, match=r"SAE topk-d48-k4, seed 0 failed: .*batch_size"):
        world.run(bad, instance)
    assert world.made() == []


def test_every_model_has_a_job_and_a_schedule_that_look_for_new_weights(world):
    world, instance = world
    definitions = world.definitions(study_config())
    assert definitions.resolve_schedule_def("observe_tiny_llama_schedule").cron_schedule == "0 * * * *"
    versions = []
    for seed in (0, 0, 1):
        make_model(Path(world.model.source.path), seed=seed)
        definitions.resolve_job_def("observe_tiny_llama").execute_in_process(instance=instance)
        record = instance.get_latest_data_version_record(model_key("tiny-llama"), True)
        versions.append(record.asset_observation.tags["dagster/data_version"])
    assert versions[0] == versions[1] != versions[2]


def test_a_study_of_a_model_or_hook_that_no_file_defines_is_refused(world):
    world, _ = world
    with pytest.raises(
        ValueError, match=r"there is no model 'gpt-5'; the model files define tiny-llama; add pipelines"
    ):
        model_of(study_config(model="gpt-5"), [world.model])
    with pytest.raises(ValueError, match=r"has no hook 'model.layers.2'; its file names model.layers.1; add the hook"):
        model_of(study_config(hook="model.layers.2"), [world.model])


def _validate(folder):
    command = [str(Path(sys.executable).parent / "dagster"), "definitions", "validate", "-w", "workspace.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_the_workspace_file_is_the_one_that_is_read(tmp_path):
    """Dagster silently ignores workspace.yaml in some set-ups; a broken copy shows that it is read."""
    assert _validate(ROOT).returncode == 0
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / "workspace.yaml").read_text()
    (tmp_path / "workspace.yaml").write_text(text.replace("pipelines.definitions", "pipelines.no_such_module"))
    broken = _validate(tmp_path)
    assert broken.returncode != 0
    assert "no_such_module" in broken.stdout + broken.stderr
