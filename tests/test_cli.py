"""The command line, as a user types it."""

import os

import dagster as dg
import pytest
from click.testing import CliRunner

from assets.components import synthetic_definitions
from assets.recording import StoreResource
from pipelines.cli import main
from pipelines.loading import ProjectFiles
from sae_core.synthetic_config import SyntheticStudyConfig


@pytest.fixture
def concord(monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("SAE_CONCORD_STORE", str(tmp_path / "store"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_help_shows_an_example(concord):
    assert "concord run quickstart" in concord("--help").output
    assert "concord run pythia-160m" in concord("run", "--help").output
    assert "concord run paper --docs docs" in concord("run", "--help").output


def test_list_names_every_study_with_its_variants(concord):
    output = concord("list").output
    assert "quickstart: smollm2-135m at model.layers.9; topk-d1024-k16" in output
    assert "paper: synthetic; matched, k_sweep, redundant, " in output
    assert "proxy_map; 10 seeds" in output
    assert {line.split(":")[0] for line in output.splitlines()} == {
        "architectures",
        "quickstart",
        "smoke",
        "pythia-160m",
        "paper",
    }


def test_a_command_leaves_no_mark_on_who_calls_it_that_later_runs_would_write_to_a_terminal(concord):
    assert concord("list").exit_code == 0
    assert "SAE_CONCORD_TERMINAL" not in os.environ


def test_a_study_that_does_not_exist_is_named_with_those_that_do(concord):
    result = concord("run", "quickstrat")
    assert result.exit_code == 1
    assert (
        "there is no study 'quickstrat'; pipelines/defs/studies defines architectures, pythia-160m, quickstart, smoke; "
        "pipelines/defs/synthetic defines paper"
    ) in result.output


def test_a_study_whose_model_cannot_be_reached_is_refused_before_anything_runs(concord, tmp_path):
    result = concord("run", "pythia-160m")
    assert result.exit_code == 1
    assert "cannot ask the Hugging Face hub for model 'EleutherAI/pythia-160m-deduped'" in result.output
    assert not (tmp_path / "store").exists()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A synthetic study in the place of those of the project."""
    point = {"d_in": 4, "d_gt": 6, "k": 2}
    topk = {"architecture": "topk", "d_sae": 6, "k": 2, "aux_k_coefficient": 0}
    study = SyntheticStudyConfig.model_validate(
        {
            "name": "tiny",
            "seeds": [0, 1],
            "recipes": {"quick": {"n_steps": 20, "batch_size": 16}},
            "experiments": [
                {
                    "name": "matched",
                    "title": "As many features as there are true ones",
                    "measures": {"n_eval_samples": 64, "n_null_draws": 1, "ceiling": False, "consensus": False},
                    "groups": [{"data": [point], "variants": [topk], "recipes": ["quick"]}],
                }
            ],
        }
    )
    shared = dg.Definitions(
        resources={"store": StoreResource(root=str(tmp_path / "store"))}, executor=dg.in_process_executor
    )
    definitions = dg.Definitions.merge(synthetic_definitions(study, None), shared)
    monkeypatch.setattr("pipelines.shell.project_files", lambda: ProjectFiles({}, {"tiny": study}))
    monkeypatch.setattr("pipelines.definitions.defs", lambda: definitions)


def test_a_synthetic_study_runs_shows_its_verdicts_and_leaves_a_copy_of_its_page(concord, tiny, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    result = concord("run", "tiny", "--docs", str(docs))
    assert result.exit_code == 0, result.output
    assert "[ 1/2] matched: " in result.output
    assert "[ 2/2] reproduction: " in result.output
    assert "row                        claim " in result.output
    assert "2 made, 0 from the cache" in result.output
    page = next(line for line in result.output.splitlines() if line.startswith("Report: ")).removeprefix("Report: ")
    assert page.endswith("reproduction.md")
    with open(page) as made:
        assert made.read() == (docs / "reproduction.md").read_text()
    assert f"Copied: {docs / 'reproduction.md'}" in result.output
    assert {path.suffix for path in docs.iterdir()} == {".md", ".png"}


def test_a_folder_for_docs_that_does_not_exist_is_refused_before_anything_runs(concord, tiny, tmp_path):
    result = concord("run", "tiny", "--docs", str(tmp_path / "dcos"))
    assert result.exit_code == 1
    assert f"--docs: there is no folder {tmp_path / 'dcos'}; make it first" in result.output
    assert not (tmp_path / "store").exists()


def test_docs_of_a_study_on_a_language_model_are_refused(concord, tmp_path):
    result = concord("run", "quickstart", "--docs", str(tmp_path))
    assert result.exit_code == 1
    assert "--docs is for synthetic studies, whose page is Markdown: quickstart has a report" in result.output
