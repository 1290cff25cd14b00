"""Comparing SAEs that lie somewhere: the library function, its JSON and its text."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines.cli import main
from sae_core.architectures import build
from sae_core.compare import compare, settings_for, short_names
from sae_core.compare_results import Comparison
from sae_core.compare_text import comparison_text
from sae_core.config import ConsistencyConfig, TopKConfig
from sae_core.formats import save_sae
from sae_core.matching import match

SCHEMA = Path(__file__).parent.parent / "docs" / "schemas" / "comparison-1.json"


@pytest.fixture
def arrays(tmp_path, rng):
    """Two dictionaries of which the first 20 of 32 features are the same up to order and sign."""
    a = rng.standard_normal((32, 12)).astype(np.float32)
    b = rng.standard_normal((32, 12)).astype(np.float32)
    b[:20] = -2 * a[:20]
    b = b[rng.permutation(32)]
    for name, W in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", W)
    return tmp_path, a, b


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def concord():
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_two_arrays_are_matched_exactly(arrays):
    folder, a, b = arrays
    found = compare([folder / "a.npy", folder / "b.npy"]).comparison
    expected = match(a, b)
    (pair,) = found.pairs
    assert (pair.a, pair.b, pair.n_matched, pair.certified) == ("a.npy", "b.npy", 32, True)
    assert pair.mcc == found.consistency.pw_mcc == pytest.approx(expected.mcc)
    assert pair.matches.feature_a == expected.left.tolist()
    assert pair.matches.feature_b == expected.right.tolist()
    assert pair.matches.cosine == pytest.approx(expected.cosine.tolist())
    assert pair.share_negative >= 20 / 32


def test_saes_of_different_formats_are_compared_with_their_encoders(tmp_path):
    for seed in range(3):
        save_sae(build(TopKConfig(d_sae=16, k=2), 8, seed), tmp_path / f"seed{seed}")
    np.save(tmp_path / "bare.npy", build(TopKConfig(d_sae=20, k=2), 8, 9).W_dec.detach().numpy())
    three = compare([tmp_path / f"seed{seed}" for seed in range(3)]).comparison
    assert [sae.format for sae in three.saes] == ["saelens"] * 3
    assert all(sae.has_encoder for sae in three.saes)
    assert three.consistency.ci_low is not None
    mixed = compare([tmp_path / "seed0", tmp_path / "bare.npy"]).comparison
    assert [sae.format for sae in mixed.saes] == ["saelens", "array"]
    assert mixed.pairs[0].n_matched == 16
    assert "joint_mean" in mixed.consistency.not_measured


def test_every_file_that_was_read_is_named_with_its_digest(arrays):
    import hashlib

    folder, _, _ = arrays
    found = compare([folder / "a.npy", folder / "b.npy"]).comparison
    assert list(found.saes[0].files.values()) == [hashlib.sha256((folder / "a.npy").read_bytes()).hexdigest()]


def test_large_saes_are_matched_without_what_would_take_minutes_more():
    assert settings_for(20_000) == settings_for(65_536, full=True) == ConsistencyConfig(n_null_draws=1)
    assert settings_for(64) == ConsistencyConfig(n_null_draws=4)
    assert settings_for(65_536).n_null_draws == 0


def test_names_are_the_shortest_endings_that_differ():
    assert short_names(["runs/seed0", "runs/seed1"]) == ["seed0", "seed1"]
    assert short_names(["a/sae", "b/sae"]) == ["a/sae", "b/sae"]
    assert short_names(["hf://o/n@r/x/1", "hf://o/n@r/y/1"]) == ["x/1", "y/1"]
    assert short_names(["sae", "runs/sae"]) == ["sae", "runs/sae"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: [f / "a.npy"], "at least two SAEs, got 1"),
        (lambda f: [f / "a.npy", f / "a.npy"], "given more than once"),
        (lambda f: [f / "a.npy", f / "narrow.npy"], "the same d_in: a.npy has 12, narrow.npy has 6"),
        (lambda f: [f / "a.npy", f / "nan.npy"], "nan.npy: W_dec holds values that are not finite in row 3"),
        (lambda f: [f / "a.npy", f / "none"], "none"),
    ],
)
def test_what_cannot_be_compared_is_refused(arrays, make, message):
    folder, a, _ = arrays
    np.save(folder / "narrow.npy", a[:, :6])
    bad = a.copy()
    bad[3, 1] = np.nan
    np.save(folder / "nan.npy", bad)
    with pytest.raises((ValueError, OSError), match=message):
        compare(make(folder))


# --- the command --------------------------------------------------------------------------------------------------


def test_the_table_names_the_value_its_chance_level_and_what_is_missing(concord, arrays):
    folder, _, _ = arrays
    result = concord("compare", folder / "a.npy", folder / "b.npy")
    assert result.exit_code == 0, result.output
    assert "PW-MCC" in result.stdout
    assert "chance, random directions" in result.stdout
    assert "two runs make one pair" in result.stdout


def test_the_json_is_what_the_published_schema_says(concord, arrays):
    folder, _, _ = arrays
    result = concord("compare", folder / "a.npy", folder / "b.npy", "--json")
    found = json.loads(result.stdout)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert found["schema_version"] == "1"
    assert Comparison.model_validate(found).pairs[0].matches
    shorter = json.loads(concord("compare", folder / "a.npy", folder / "b.npy", "--json", "--no-matches").stdout)
    assert shorter["pairs"][0]["matches"] is None


def test_the_published_schema_is_that_of_the_code(concord):
    assert json.loads(SCHEMA.read_text()) == json.loads(concord("compare", "--schema").stdout)


def test_pairs_and_figures_are_written_where_they_are_wanted(concord, arrays):
    folder, _, _ = arrays
    names = ["--pairs", folder / "out.parquet", "--plot", folder / "out.png"]
    result = concord("compare", folder / "a.npy", folder / "b.npy", *names)
    assert result.exit_code == 0, result.output
    table = pq.read_table(folder / "out.parquet")
    assert table.num_rows == 32
    assert {"run_a", "run_b", "feature_a", "feature_b", "cosine"} <= set(table.column_names)
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert concord("compare", folder / "a.npy", folder / "b.npy", "--plot", folder / "out.svg").exit_code == 0
    assert "<svg" in (folder / "out.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.npy"], "at least two SAEs"),
        (["a.npy", "missing.npy"], "missing.npy"),
        (["a.npy", "b.npy", "--plot", "out.gif"], "--plot writes .png or .svg files"),
        (["a.npy", "b.npy", "--pairs", "nowhere/out.parquet"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(concord, arrays, monkeypatch, arguments, message):
    monkeypatch.chdir(arrays[0])
    result = concord("compare", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_text_says_so_when_two_saes_are_copies(tmp_path, rng):
    W = rng.standard_normal((8, 4))
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", W)
    text = comparison_text(compare([tmp_path / "a.npy", tmp_path / "b.npy"]).comparison)
    assert "a.npy and b.npy are copies of the same files" in text
