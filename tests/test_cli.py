"""The command line, as a user types it."""

import pytest
from click.testing import CliRunner

from pipelines.cli import main


@pytest.fixture
def concord(monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("SAE_CONCORD_STORE", str(tmp_path / "store"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_help_shows_an_example(concord):
    assert "concord run quickstart" in concord("--help").output
    assert "concord run pythia-160m" in concord("run", "--help").output


def test_list_names_every_study_with_its_variants(concord):
    output = concord("list").output
    assert "quickstart: smollm2-135m at model.layers.9; topk-d1024-k16" in output
    assert {line.split(":")[0] for line in output.splitlines()} == {
        "architectures",
        "quickstart",
        "smoke",
        "pythia-160m",
    }


def test_a_study_that_does_not_exist_is_named_with_those_that_do(concord):
    result = concord("run", "quickstrat")
    assert result.exit_code == 1
    assert (
        "there is no study 'quickstrat'; pipelines/defs/studies defines architectures, pythia-160m, quickstart, smoke"
        in result.output
    )


def test_a_study_whose_model_cannot_be_reached_is_refused_before_anything_runs(concord, tmp_path):
    result = concord("run", "pythia-160m")
    assert result.exit_code == 1
    assert "cannot ask the Hugging Face hub for model 'EleutherAI/pythia-160m-deduped'" in result.output
    assert not (tmp_path / "store").exists()
