"""Loading what users wrote: a broken file is named with its reason, and takes nothing else down."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.recording import StoreResource
from pipelines.chains import chain_of
from pipelines.loading import load_project

ROOT = Path(__file__).resolve().parent.parent
SMOKE, QUICKSTART, MODEL = "studies/smoke", "studies/quickstart", "models/smollm2_smoke"


@pytest.fixture
def root(tmp_path):
    """A copy of the project's files."""
    shutil.copytree(
        ROOT / "pipelines" / "defs", tmp_path / "pipelines" / "defs", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def edit(root, folder, old, new):
    file = root / "pipelines" / "defs" / folder / "defs.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def specs_of(project):
    store = dg.Definitions(resources={"store": StoreResource(root="")})
    return dg.Definitions.merge(project.definitions, store).resolve_all_asset_specs()


def groups(project):
    return {spec.group_name for spec in specs_of(project)}


def test_all_files_of_the_project_are_sound():
    project = load_project(ROOT)
    assert project.broken == ()
    assert {"smoke", "quickstart", "architectures", "pythia-160m"} <= set(project.studies)
    assert set(project.synthetic) == {"paper"}
    assert "broken" not in groups(project)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("hook:", "hook: [", r"expected ',' or '\]', but got ':'\n  in \".*studies/smoke/defs.yaml\", line 7"),
        ("components.Study", "components.Studdy", "Module `assets.components` has no attribute `Studdy`"),
        ("n_steps:", "n_stepz:", r"attributes.training.n_stepz at .*studies/smoke/defs.yaml:13`\n  Extra inputs are"),
        ("n_steps: 300", "n_steps: -3", r"attributes.training.n_steps at .*smoke/defs.yaml:13`\n  Input should be gre"),
        ("seeds: [0, 1]", "seeds: [0]", "consistency needs at least two different seeds: got seeds=[0]"),
        ("model: smollm2-135m-smoke", "model: gpt-5", "there is no model 'gpt-5'; the model files define "),
        ("hook: model.layers.4", "hook: model.layers.5", "has no hook 'model.layers.5'; its file names model.layers.4"),
        ("type:", "\x00type:", "special characters are not allowed"),
    ],
    ids=["syntax", "type", "key", "value", "rule", "model", "hook", "binary"],
)
def test_a_broken_file_is_shown_with_its_reason_and_the_others_load(root, old, new, reason):
    edit(root, SMOKE, old, new)
    project = load_project(root)
    (broken,) = project.broken
    assert str(broken.folder) == "pipelines/defs/studies/smoke"
    assert re.search(reason, broken.error) or reason in broken.error, broken.error
    assert set(project.studies) == {"quickstart", "architectures", "pythia-160m"}
    specs = {spec.key.to_user_string(): spec for spec in specs_of(project)}
    shown = specs["broken/smoke"]
    assert shown.group_name == "broken"
    assert broken.error in shown.description
    assert "smoke/sae" not in specs
    assert "activations/smollm2-135m-smoke/model_layers_4" in specs


def test_an_empty_file_is_broken_too(root):
    (root / "pipelines" / "defs" / SMOKE / "defs.yaml").write_text("")
    (broken,) = load_project(root).broken
    assert "No components found" in broken.error


def test_materializing_what_stands_for_a_broken_file_fails_with_its_reason(root):
    edit(root, SMOKE, "n_steps:", "n_stepz:")
    store = dg.Definitions(resources={"store": StoreResource(root="")})
    job = dg.Definitions.merge(load_project(root).definitions, store).resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.Failure, match="Extra inputs are not permitted") as failure:
        job.execute_in_process(
            instance=dg.DagsterInstance.ephemeral(), asset_selection=[dg.AssetKey(["broken", "smoke"])]
        )
    assert not failure.value.allow_retries


def test_a_broken_model_breaks_its_studies_and_they_say_why(root):
    edit(root, MODEL, "n_tokens: 60_000", "n_tokens: none")
    project = load_project(root)
    errors = {str(broken.folder).removeprefix("pipelines/defs/"): broken.error for broken in project.broken}
    assert set(errors) == {MODEL, SMOKE}
    assert "attributes.corpus.n_tokens" in errors[MODEL]
    assert errors[SMOKE].startswith(
        "study smoke reads the model smollm2-135m-smoke, and pipelines/defs/models/smollm2_smoke is broken: "
    )
    assert set(project.studies) == {"quickstart", "architectures", "pythia-160m"}


def test_a_broken_study_breaks_the_synthetic_study_that_shows_its_results(root):
    edit(root, "studies/pythia_160m", "n_steps:", "n_stepz:")
    project = load_project(root)
    errors = {broken.folder.name: broken.error for broken in project.broken}
    assert set(errors) == {"pythia_160m", "paper"}
    assert errors["paper"].startswith(
        "study paper shows the results of study pythia-160m, and pipelines/defs/studies/pythia_160m is broken: "
    )


def test_a_broken_study_is_not_taken_for_the_model_of_the_same_name(root):
    shutil.copytree(root / "pipelines" / "defs" / SMOKE, root / "pipelines" / "defs" / "studies" / "other")
    edit(root, "studies/other", "name: smoke", "name: other")
    edit(root, "studies/other", "model: smollm2-135m-smoke", "model: pythia-160m")
    edit(root, "studies/other", "hook: model.layers.4", "hook: gpt_neox.layers.8")
    edit(root, "studies/pythia_160m", "n_steps:", "n_stepz:")
    project = load_project(root)
    assert {broken.folder.name for broken in project.broken} == {"pythia_160m", "paper"}
    assert "other" in project.studies


@pytest.mark.parametrize("name", ["quickstart", "quick-start"])
def test_of_two_studies_with_one_name_neither_is_loaded(root, name):
    edit(root, SMOKE, "name: smoke", f"name: {name}")
    edit(root, QUICKSTART, "name: quickstart", f"name: {name.replace('-', '_')}")
    project = load_project(root)
    assert {broken.folder.name for broken in project.broken} == {"smoke", "quickstart"}
    assert all(
        "in pipelines/defs/studies/quickstart and pipelines/defs/studies/smoke" in b.error for b in project.broken
    )
    assert set(project.studies) == {"architectures", "pythia-160m"}


def test_a_synthetic_study_and_a_study_of_one_name_are_both_broken(root):
    edit(root, SMOKE, "name: smoke", "name: paper")
    project = load_project(root)
    assert {broken.folder.name for broken in project.broken} == {"smoke", "paper"}
    assert project.synthetic == {}


def test_two_models_of_one_name_break_the_studies_that_read_them(root):
    edit(root, MODEL, "name: smollm2-135m-smoke", "name: smollm2-135m")
    project = load_project(root)
    assert {broken.folder.name for broken in project.broken} == {
        "smollm2_smoke", "smollm2", "smoke", "quickstart", "architectures"
    }  # fmt: skip
    assert set(project.studies) == {"pythia-160m"}


def test_equal_folder_names_of_broken_files_do_not_clash(root):
    os.rename(root / "pipelines/defs/models/smollm2_smoke", root / "pipelines/defs/models/smoke")
    edit(root, "models/smoke", "n_tokens: 60_000", "n_tokens: none")
    keys = {spec.key.to_user_string() for spec in specs_of(load_project(root))}
    assert {"broken/models_smoke", "broken/studies_smoke"} <= keys


def test_a_run_of_a_broken_study_gives_its_error(root):
    edit(root, "studies/pythia_160m", "n_steps:", "n_stepz:")
    project = load_project(root)
    with pytest.raises(ValueError, match=r"pythia_160m is broken: (.|\n)*n_stepz(.|\n)*Extra inputs"):
        chain_of(project, "pythia-160m")
    with pytest.raises(KeyError, match="there is no study 'pythia'"):
        chain_of(project, "pythia")


def test_an_asset_still_leads_to_the_line_of_its_file():
    specs = {spec.key.to_user_string(): spec for spec in specs_of(load_project(ROOT))}
    (reference,) = specs["smoke/sae"].metadata["dagster/code_references"].code_references
    assert reference.file_path == str(ROOT / "pipelines" / "defs" / "studies" / "smoke" / "defs.yaml")


def test_the_code_location_loads_with_a_broken_file_which_the_list_names_with_status_1(root):
    for name in ("assets", "sae_core"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "pipelines").glob("*.*"):
        shutil.copy(path, root / "pipelines")
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(ROOT / name, root)
    edit(root, SMOKE, "n_steps:", "n_stepz:")
    bin_ = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}

    def run(*command):
        return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)

    validated = run(str(bin_ / "dagster"), "definitions", "validate", "-w", "workspace.yaml")
    assert validated.returncode == 0, validated.stdout + validated.stderr
    assert "pipelines/defs/studies/smoke is broken" in validated.stdout + validated.stderr
    listed = run(sys.executable, "-c", "from pipelines.cli import main; main()", "list")
    assert listed.returncode == 1
    assert "quickstart: smollm2-135m at model.layers.9" in listed.stdout
    assert "attributes.training.n_stepz at " in listed.stderr
    assert "Error: 1 broken; the others can be run" in listed.stderr
