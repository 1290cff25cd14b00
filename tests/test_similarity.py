import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_core.config import SimilarityConfig
from sae_core.explanations import SCHEMA
from sae_core.similarity import explanation_similarity, write_similarity
from sae_core.similarity_pairs import draw_decoys
from sae_core.similarity_statistics import partial_spearman, spearman

CONFIG = SimilarityConfig()


def _embed(texts):
    """Texts are angles in degrees: two texts are as alike as the cosine of their difference."""
    angle = np.deg2rad([float(text) for text in texts])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * 3  # not of unit length


def _explanations(angles, reasons=None):
    """A table from {feature: (half 0, half 1)}; None is missing."""
    rows = [
        {
            "feature": feature, "half": half, "explanation": None if text is None else str(text),
            "missing_reason": "fired too rarely" if text is None else None,
            "n_activations": 10, "frequency": 0.1, "words": [], "promoted": [], "examples": [],
        }
        for feature, both in angles.items() for half, text in enumerate(both)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _matches(pairs, run_a="A", run_b="B", frequency=None, alive=None):
    """Pairs of (feature of A, feature of B, cosine)."""
    left, right, cosine = zip(*pairs, strict=True)
    n = len(pairs)
    frequency = np.full(n, 0.1) if frequency is None else np.asarray(frequency, dtype=float)
    alive = np.ones(n, dtype=bool) if alive is None else np.asarray(alive)
    return pa.table(
        {
            "run_a": [run_a] * n, "run_b": [run_b] * n, "feature_a": pa.array(left, pa.int64()),
            "feature_b": pa.array(right, pa.int64()), "cosine": pa.array(cosine, pa.float64()),
            "alive_a": alive, "alive_b": alive, "frequency_a": frequency, "frequency_b": frequency,
        }
    )  # fmt: skip


def _random_world(n=200, seed=0, runs=("A", "B", "C"), noise=20.0):
    """Matched features whose explanations differ by an angle that grows as their cosine falls."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 360, n)
    tables, matches = {}, []
    cosine = rng.uniform(0.1, 1, n)
    frequency = rng.uniform(1e-4, 1e-1, n)
    for run in runs:
        shift = (1 - cosine) * rng.normal(0, 90, n)
        halves = base[:, None] + shift[:, None] + rng.normal(0, noise, (n, 2))
        tables[run] = _explanations({i: tuple(halves[i]) for i in range(n)})
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            matches.append(_matches([(j, j, c) for j, c in enumerate(cosine)], a, b, frequency))
    return pa.concat_tables(matches), tables


def test_similarity_is_across_halves_and_averaged():
    tables = {"A": _explanations({0: (0, 90)}), "B": _explanations({0: (60, 180)})}
    report = explanation_similarity(_matches([(0, 0, 0.9)]), tables, _embed, CONFIG)
    # A's half 0 with B's half 1: cos 180 = -1; A's half 1 with B's half 0: cos 30
    assert report.pairs["similarity"][0].as_py() == pytest.approx((-1 + np.cos(np.pi / 6)) / 2)


def test_one_missing_half_leaves_the_other_direction():
    tables = {"A": _explanations({0: (None, 90)}), "B": _explanations({0: (60, 180)})}
    report = explanation_similarity(_matches([(0, 0, 0.9)]), tables, _embed, CONFIG)
    assert report.pairs["similarity"][0].as_py() == pytest.approx(np.cos(np.pi / 6))


def test_missing_similarities_are_counted_by_reason_and_add_up():
    a = _explanations({0: (0, 0), 1: (None, None), 2: (0, None), 3: (0, 0)})
    b = _explanations({0: (0, 0), 1: (0, 0), 2: (0, None), 4: (0, 0)})
    pairs = [(0, 0, 0.9), (1, 1, 0.8), (2, 2, 0.7), (3, 3, 0.6), (9, 4, 0.5), (3, 4, 0.4)]
    alive = [True, True, True, True, True, False]
    summary = explanation_similarity(_matches(pairs, alive=alive), {"A": a, "B": b}, _embed, CONFIG).summary
    assert summary.missing == {
        "fired too rarely": 2,
        "not alive in both runs": 1,
        "not in the sample of explained features": 2,
    }
    assert summary.n_used + sum(summary.missing.values()) == summary.n_matched == 6


def test_the_correlations_are_those_of_the_table():
    matches, tables = _random_world()
    report = explanation_similarity(matches, tables, _embed, CONFIG)
    for found in report.summary.run_pairs:
        here = [r for r in report.pairs.to_pylist() if (r["run_a"], r["run_b"]) == (found.run_a, found.run_b)]
        cosine, similarity, frequency = (np.array([r[c] for r in here]) for c in ("cosine", "similarity", "frequency"))
        assert found.rho == pytest.approx(spearman(cosine, similarity))
        assert found.rho_partial == pytest.approx(partial_spearman(cosine, similarity, np.log(frequency)))
    assert report.summary.rho == pytest.approx(np.mean([pair.rho for pair in report.summary.run_pairs]))


def test_consistent_features_explained_alike_are_seen():
    matches, tables = _random_world()
    summary = explanation_similarity(matches, tables, _embed, CONFIG).summary
    assert summary.rho_partial > 0.4
    assert summary.rho_partial_ci.low < summary.rho_partial < summary.rho_partial_ci.high
    assert summary.lift > 0.3
    assert summary.auc > 0.7
    assert abs(summary.mean_decoy) < 0.1
    assert summary.noise_ceiling == pytest.approx(np.exp(-2 * np.deg2rad(20) ** 2 / 2), abs=0.02)


def test_equal_explanations_of_all_features_have_no_lift():
    same = dict.fromkeys(range(30), (7, 7))
    tables = {"A": _explanations(same), "B": _explanations(same)}
    summary = explanation_similarity(
        _matches([(i, i, (i + 1) / 40) for i in range(30)]), tables, _embed, CONFIG
    ).summary
    assert summary.lift == pytest.approx(0)
    assert summary.auc == pytest.approx(0.5)
    assert summary.rho is None
    assert summary.rho_partial is None


def test_the_sign_of_the_cosine_changes_nothing():
    matches, tables = _random_world()
    flipped = matches.set_column(4, "cosine", pa.array(-matches["cosine"].to_numpy()))
    first, second = (explanation_similarity(m, tables, _embed, CONFIG) for m in (matches, flipped))
    assert first.summary == second.summary


def test_two_runs_have_no_interval():
    matches, tables = _random_world(runs=("A", "B"))
    summary = explanation_similarity(matches, tables, _embed, CONFIG).summary
    assert summary.rho is not None
    assert summary.rho_ci is None


def test_the_same_seed_draws_the_same_decoys_and_the_global_generator_is_untouched():
    matches, tables = _random_world()
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (explanation_similarity(matches, tables, _embed, CONFIG) for _ in range(2))
    assert first.pairs.equals(second.pairs)
    assert first.summary == second.summary
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    other = explanation_similarity(matches, tables, _embed, SimilarityConfig(seed=1))
    assert not other.pairs["decoy_similarity"].equals(first.pairs["decoy_similarity"])
    assert other.pairs["similarity"].equals(first.pairs["similarity"])


def test_a_decoy_is_another_feature_of_nearly_the_same_frequency():
    rng = np.random.default_rng(0)
    frequency = rng.permutation(100).astype(float)
    drawn = draw_decoys(frequency, 50, rng)
    assert (drawn != np.arange(100)[:, None]).all()
    assert np.abs(frequency[drawn] - frequency[:, None]).max() == 20
    assert set(draw_decoys(np.array([1.0, 2.0]), 3, rng).ravel()) == {0, 1}
    assert draw_decoys(np.array([1.0]), 3, rng).shape == (1, 0)


def test_what_is_written_can_be_read(tmp_path):
    matches, tables = _random_world(n=20)
    report = explanation_similarity(matches, tables, _embed, CONFIG)
    summary = write_similarity(tmp_path, report)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert pq.read_table(tmp_path / "pairs.parquet").equals(report.pairs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "summary.json"]


def test_a_run_without_explanations_is_refused():
    with pytest.raises(ValueError, match="no explanations for B; materialize"):
        explanation_similarity(_matches([(0, 0, 1.0)]), {"A": _explanations({0: (0, 0)})}, _embed, CONFIG)


def test_no_matched_pair_is_refused():
    with pytest.raises(ValueError, match="expected at least one matched pair, got none"):
        explanation_similarity(_matches([(0, 0, 1.0)]).slice(0, 0), {}, _embed, CONFIG)


def test_matches_without_frequencies_are_refused():
    matches = _matches([(0, 0, 1.0)])
    matches = matches.set_column(7, "frequency_a", pa.nulls(1, pa.float64()))
    tables = {run: _explanations({0: (0, 0)}) for run in "AB"}
    with pytest.raises(ValueError, match="matches lack frequency_a"):
        explanation_similarity(matches, tables, _embed, CONFIG)
