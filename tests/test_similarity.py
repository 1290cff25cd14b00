import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_core.config import SimilarityConfig
from sae_core.consistency.statistics import jackknife
from sae_core.similarity.chance import chance_cosines
from sae_core.similarity.compare import write_similarity
from sae_core.similarity.draws import draw_pairs
from sae_core.similarity.results import SimilaritySummary
from sae_core.similarity.statistics import auc, partial_spearman, spearman
from tests.made_up_similarity import RARE, contexts, explanations, matches, similarity

NOT_DRAWN = "not in the sample of explained features"
COSINE = 4  # column of the matches


def _random_world(n=120, seed=0, runs=("A", "B", "C"), noise=20.0):
    """Matched features whose explanations differ by an angle that grows as their cosine falls."""
    rng = np.random.default_rng(seed)
    base, cosine, frequency = rng.uniform(0, 360, n), rng.uniform(0.1, 1, n), rng.uniform(1e-4, 1e-1, n)
    tables, found = {}, []
    for run in runs:
        shift = (1 - cosine) * rng.normal(0, 90, n)
        halves = base[:, None] + shift[:, None] + rng.normal(0, noise, (n, 2))
        tables[run] = explanations({i: tuple(halves[i]) for i in range(n)})
    for i, a in enumerate(runs):
        found += [matches([(j, j, c) for j, c in enumerate(cosine)], a, b, frequency) for b in runs[i + 1 :]]
    return pa.concat_tables(found), tables


def _rows(report, measure, run_a="A", run_b="B"):
    rows = [
        row
        for row in report.pairs.to_pylist()
        if (row["measure"], row["run_a"], row["run_b"]) == (measure, run_a, run_b)
    ]
    return {name: np.array([row[name] for row in rows]) for name in report.pairs.column_names}


# --- explanations ------------------------------------------------------------------------------------------------


def test_similarity_is_across_halves_and_averaged():
    tables = {"A": explanations({0: (0, 90)}), "B": explanations({0: (60, 180)})}
    report = similarity(matches([(0, 0, 0.9)]), tables)
    # A's half 0 with B's half 1: cos 180 = -1; A's half 1 with B's half 0: cos 30
    assert _rows(report, "embedding:lexical")["similarity"][0] == pytest.approx((-1 + np.cos(np.pi / 6)) / 2)


def test_one_missing_half_leaves_the_other_direction():
    tables = {"A": explanations({0: (None, 90)}), "B": explanations({0: (60, 180)})}
    report = similarity(matches([(0, 0, 0.9)]), tables)
    assert _rows(report, "embedding:lexical")["similarity"][0] == pytest.approx(np.cos(np.pi / 6))


def test_missing_similarities_are_counted_by_reason_and_add_up():
    a = explanations({0: (0, 0), 1: (None, None), 2: (0, None), 3: (0, 0)})
    b = explanations({0: (0, 0), 1: (0, 0), 2: (0, None), 4: (0, 0)})
    pairs = [(0, 0, 0.9), (1, 1, 0.8), (2, 2, 0.7), (3, 3, 0.6), (9, 4, 0.5), (3, 4, 0.4)]
    report = similarity(matches(pairs, alive=[True] * 5 + [False]), {"A": a, "B": b})
    first = report.summary.first
    assert first.missing == {RARE: 2, "not alive in both runs": 1, NOT_DRAWN: 2}
    assert first.n_used + sum(first.missing.values()) == first.n_asked == 6
    rows = _rows(report, "embedding:lexical")
    assert rows["missing_reason"].tolist() == [None, RARE, RARE, NOT_DRAWN, NOT_DRAWN, "not alive in both runs"]
    for measure in report.summary.measures:
        assert measure.n_used + sum(measure.missing.values()) == measure.n_asked


def test_an_explainer_that_was_asked_for_a_sample_has_rows_for_the_sample_only():
    found, tables = _random_world(n=60)
    sample = draw_pairs(found, 31, seed=4)
    report = similarity(found, {"lexical": tables, "local": tables}, asked={"local": sample, "lexical": None})
    assert report.summary.primary == "embedding:lexical"
    assert report.summary.first.n_asked == report.summary.n_matched == 180
    local = report.summary.measure("embedding:local")
    assert local.n_asked == local.n_used == 31
    names = ["run_a", "run_b", "feature_a", "feature_b"]
    mine = report.pairs.filter(pa.compute.field("measure") == "embedding:local").select(names)
    assert sorted(map(tuple, (row.values() for row in mine.to_pylist()))) == sorted(
        map(tuple, (row.values() for row in sample.to_pylist()))
    )


def test_decoys_of_a_sample_may_be_any_explained_feature():
    found, tables = _random_world(n=60, runs=("A", "B"))
    few = similarity(found, tables, asked={"lexical": draw_pairs(found, 1, seed=0)}).summary.first
    assert few.n_used == 1
    assert few.auc is not None
    assert few.auc_shuffled is None  # nobody to change partners with


def test_the_numbers_are_those_of_the_table():
    found, tables = _random_world()
    report = similarity(found, tables, config=SimilarityConfig(n_permutations=19, n_decoys=1))
    for one in report.summary.first.run_pairs:
        rows = _rows(report, "embedding:lexical", one.run_a, one.run_b)
        cosine, values, frequency, decoy = (rows[c] for c in ("cosine", "similarity", "frequency", "decoy_similarity"))
        assert one.rho == pytest.approx(spearman(cosine, values))
        assert one.rho_partial == pytest.approx(partial_spearman(cosine, values, np.log(frequency)))
        assert one.lift == pytest.approx(values.mean() - decoy.mean())
        assert one.auc == pytest.approx(auc(values, decoy))
    values = np.full((3, 3), np.nan)
    for one in report.summary.first.run_pairs:
        i, j = "ABC".index(one.run_a), "ABC".index(one.run_b)
        values[i, j] = values[j, i] = one.rho_partial
    assert report.summary.first.rho_partial == pytest.approx(np.nanmean(values))
    assert report.summary.first.rho_partial_ci == jackknife(values)


def test_the_noise_ceiling_is_the_similarity_of_a_feature_with_itself_over_the_features_used():
    tables = {"A": explanations({0: (0, 60), 1: (0, 0), 2: (0, 180)}), "B": explanations({0: (0, 90), 1: (0, None)})}
    report = similarity(matches([(0, 0, 0.9), (1, 1, 0.8)]), tables)
    assert report.summary.first.noise_ceiling == pytest.approx(np.mean([0.5, 1, 0]))  # B's second feature has one half


def test_pairs_at_or_below_chance_are_counted_apart():
    found, tables = _random_world(runs=("A", "B"))
    cosine = np.abs(found["cosine"].to_numpy())
    level = float(np.sort(cosine)[29])
    report = similarity(found, tables, chance=level)
    rows, first = _rows(report, "embedding:lexical"), report.summary.first
    assert first.n_below_chance == 30
    assert rows["above_chance"].tolist() == (cosine > level).tolist()
    above = rows["above_chance"]
    assert first.mean_similarity_below_chance == pytest.approx(rows["similarity"][~above].mean())
    assert first.rho_partial_above_chance == pytest.approx(
        partial_spearman(rows["cosine"][above], rows["similarity"][above], rows["frequency"][above])
    )
    assert report.summary.chance_cosine == {"A and B": level}
    nobody = similarity(found, tables, chance=0.01).summary.first
    assert (nobody.n_below_chance, nobody.mean_similarity_below_chance) == (0, None)
    assert nobody.rho_partial_above_chance == nobody.rho_partial


def test_consistent_features_explained_alike_are_seen():
    found, tables = _random_world()
    first = similarity(found, tables).summary.first
    assert first.rho_partial > 0.4
    assert first.rho_partial_ci.low < first.rho_partial < first.rho_partial_ci.high
    assert first.permutation_p == pytest.approx(2 / 20)  # twice the median of the smallest of 19 permutations
    assert first.lift > 0.3
    assert first.auc > 0.7
    assert abs(first.mean_decoy) < 0.1
    assert first.noise_ceiling == pytest.approx(np.exp(-2 * np.deg2rad(20) ** 2 / 2), abs=0.02)


def test_equal_explanations_of_all_features_have_no_lift():
    tables = {run: explanations(dict.fromkeys(range(30), (7, 7))) for run in "AB"}
    first = similarity(matches([(i, i, (i + 1) / 40) for i in range(30)]), tables).summary.first
    assert first.lift == pytest.approx(0)
    assert first.auc == first.auc_shuffled == pytest.approx(0.5)
    assert first.rho is first.rho_partial is first.permutation_p is None


def test_the_sign_of_the_cosine_changes_nothing():
    found, tables = _random_world()
    flipped = found.set_column(COSINE, "cosine", pa.array(-found["cosine"].to_numpy()))
    assert similarity(found, tables).summary == similarity(flipped, tables).summary


def test_two_runs_have_no_interval():
    found, tables = _random_world(runs=("A", "B"))
    first = similarity(found, tables).summary.first
    assert first.rho is not None
    assert first.rho_ci is first.rho_partial_ci is first.lift_ci is None


def test_another_run_changes_nothing_about_two_runs():
    found, tables = _random_world()
    two = found.filter((pa.compute.field("run_a") == "A") & (pa.compute.field("run_b") == "B"))
    assert similarity(two, tables).summary.first.run_pairs[0] == similarity(found, tables).summary.first.run_pairs[0]


def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_untouched():
    found, tables = _random_world()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = similarity(found, tables), similarity(found, tables)
    assert first.pairs.equals(second.pairs)
    assert first.summary == second.summary
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    other = similarity(found, tables, config=SimilarityConfig(seed=1, n_permutations=19))
    assert not other.pairs["decoy_similarity"].equals(first.pairs["decoy_similarity"])
    assert other.pairs["similarity"].equals(first.pairs["similarity"])


# --- words and activations ----------------------------------------------------------------------------------------


def _random_words(rng, features):
    def shares():
        words = rng.choice(list("abcdefgh"), 4, replace=False)
        return dict(zip(words.tolist(), (rng.dirichlet(np.ones(5))[:4]).tolist(), strict=True))

    return {(feature, half): shares() for feature in features for half in (0, 1)}


def test_the_affinity_of_words_is_the_sum_of_the_roots_across_halves():
    rng = np.random.default_rng(0)
    words = {run: _random_words(rng, range(6)) for run in "AB"}
    codes = {feature: {1: 1.0, 60: 1.0} for feature in range(6)}
    own = {run: contexts(codes, words[run]) for run in "AB"}
    pairs = [(i, (i + 2) % 6, 0.5) for i in range(6)]
    report = similarity(matches(pairs), {run: explanations({}) for run in "AB"}, own)
    found = _rows(report, "words")["similarity"]

    def affinity(p, q):
        return sum(np.sqrt(p[word] * q[word]) for word in p if word in q)

    for (a, b, _), value in zip(pairs, found, strict=True):
        mine, yours = words["A"], words["B"]
        expected = (affinity(mine[a, 0], yours[b, 1]) + affinity(mine[a, 1], yours[b, 0])) / 2
        assert value == pytest.approx(expected, rel=1e-6)
    itself = [affinity(words[run][f, 0], words[run][f, 1]) for run in "AB" for f in range(6)]
    assert report.summary.measure("words").noise_ceiling == pytest.approx(np.mean(itself), rel=1e-6)


def test_features_without_words_are_missing_by_reason():
    codes = {0: {1: 1.0, 60: 1.0}, 1: {1: 1.0}, 2: {1: 1.0, 2: 1.0, 60: 1.0, 61: 1.0}}
    words = {(f, half): {"x": 1.0} for f in codes for half in (0, 1) if (f, half) != (1, 1)}
    own = {run: contexts(codes, words) for run in "AB"}
    tables = {run: explanations({}) for run in "AB"}
    pairs = matches([(i, i, 0.5) for i in range(4)])
    found = similarity(pairs, tables, own).summary
    assert found.measure("words").missing == {
        "no activation in a half of the text": 1,
        "no activation in the held-out text": 1,
    }
    assert found.measure("activations").missing == {"no activation in the held-out text": 1}
    found = similarity(pairs, tables, own, min_activations=2).summary
    assert found.measure("words").missing == {
        "fewer than 2 activations in a half of the text": 2,
        "no activation in the held-out text": 1,
    }
    assert found.measure("activations").missing == {
        "fewer than 2 activations in the text": 1,
        "no activation in the held-out text": 1,
    }


def _random_codes(rng, n_features, tokens):
    return {
        feature: dict(zip(np.flatnonzero(fires).tolist(), rng.random(fires.sum()).astype(np.float32), strict=True))
        for feature in range(n_features)
        if (fires := (rng.random(100) < 0.4) & np.isin(np.arange(100), tokens)).any()
    }


def test_the_similarity_of_activations_is_the_absolute_correlation_over_the_tokens_that_both_looked_at():
    rng = np.random.default_rng(0)
    for tokens in ({"A": range(100), "B": range(100)}, {"A": range(5, 90), "B": range(20, 100, 2)}):
        codes = {run: _random_codes(rng, 8, list(tokens[run])) for run in "AB"}
        own = {run: contexts(codes[run], looked_at=tokens[run]) for run in "AB"}
        pairs = [(i, (3 * i) % 8, 0.5) for i in range(8)]
        report = similarity(matches(pairs), {run: explanations({}) for run in "AB"}, own)
        both = sorted(set(tokens["A"]) & set(tokens["B"]))
        for (a, b, _), value in zip(pairs, _rows(report, "activations")["similarity"], strict=True):
            x, y = ([codes[run][f].get(t, 0.0) for t in both] for run, f in (("A", a), ("B", b)))
            assert value == pytest.approx(abs(np.corrcoef(x, y)[0, 1]), abs=1e-6)


def test_a_feature_that_does_not_vary_has_no_correlation():
    own = {run: contexts({0: dict.fromkeys(range(100), 0.3), 1: {1: 1.0}}) for run in "AB"}
    report = similarity(matches([(0, 0, 0.9), (1, 1, 0.9)]), {run: explanations({}) for run in "AB"}, own)
    assert report.summary.measure("activations").missing == {"the activation of a feature does not vary": 1}
    assert _rows(report, "activations")["similarity"][1] == pytest.approx(1)
    assert report.summary.measure("activations").noise_ceiling is None


# --- draws and the chance level -----------------------------------------------------------------------------------


def _three_runs(n=50, alive=None):
    rng = np.random.default_rng(0)
    pairs = [("A", "B"), ("A", "C"), ("B", "C")]
    return pa.concat_tables(
        matches([(i, int(j), 0.5) for i, j in enumerate(rng.permutation(n))], a, b, alive=alive) for a, b in pairs
    )


def _keys(table):
    return {tuple(row.values()) for row in table.select(["run_a", "run_b", "feature_a", "feature_b"]).to_pylist()}


def test_pairs_are_drawn_evenly_over_the_pairs_of_runs_among_those_alive():
    alive = np.arange(50) % 2 == 0
    found = _three_runs(alive=alive)
    drawn = draw_pairs(found, 31, seed=0)
    assert [drawn.filter(pa.compute.field("run_b") == run).num_rows for run in "BC"] == [11, 20]
    assert _keys(drawn) <= _keys(found.filter(pa.compute.field("alive_a")))
    assert len(_keys(drawn)) == 31
    assert draw_pairs(found, 1000, seed=0).num_rows == 75
    assert _keys(draw_pairs(found, 31, seed=1)) != _keys(drawn)


def test_what_is_drawn_for_two_runs_depends_on_nothing_but_their_share():
    found = _three_runs()
    two = found.filter(pa.compute.field("run_b") == "B")
    mine = draw_pairs(found, 30, seed=3).filter(pa.compute.field("run_b") == "B")
    assert _keys(draw_pairs(two, 10, seed=3)) == _keys(mine)
    assert _keys(mine) < _keys(draw_pairs(two, 12, seed=3))
    backwards = two.take(list(range(two.num_rows))[::-1])
    assert draw_pairs(backwards, 10, seed=3).equals(draw_pairs(two, 10, seed=3))


def test_every_pair_is_drawn_equally_often():
    two = _three_runs(n=10).filter(pa.compute.field("run_b") == "B")
    counts = np.bincount(np.concatenate([draw_pairs(two, 3, seed)["feature_a"].to_numpy() for seed in range(400)]))
    assert abs(counts - 120).max() < 5 * np.sqrt(400 * 0.3 * 0.7)


def test_chance_is_the_sign_flip_null_or_that_of_random_directions():
    pairs = pa.table({"run_a": ["A", "A"], "run_b": ["B", "C"], "null_sign_flip": [0.2, None]})
    assert chance_cosines(pairs, {"null_isotropic": 0.1}) == {("A", "B"): 0.2, ("A", "C"): 0.1}


# --- files and refusals -------------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(tmp_path):
    found, tables = _random_world(n=20)
    report = similarity(found, tables)
    flat = write_similarity(tmp_path, report)
    assert SimilaritySummary.model_validate_json((tmp_path / "summary.json").read_text()) == report.summary
    assert json.loads((tmp_path / "summary.json").read_text()).items() <= flat.items()
    assert pq.read_table(tmp_path / "pairs.parquet").equals(report.pairs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "summary.json"]
    first = report.summary.first
    for name in ("rho_partial", "rho", "lift", "auc", "noise_ceiling", "n_used"):
        assert flat[name] == getattr(first, name)
    assert flat["n_matched"] == 60


def test_a_run_without_explanations_is_refused():
    with pytest.raises(ValueError, match="no explanations of lexical for B; materialize"):
        similarity(matches([(0, 0, 1.0)]), {"A": explanations({0: (0, 0)})})


def test_a_run_without_contexts_is_refused():
    tables = {run: explanations({0: (0, 0)}) for run in "AB"}
    with pytest.raises(ValueError, match="no contexts for B; materialize"):
        similarity(matches([(0, 0, 1.0)]), tables, {"A": contexts({})})


def test_no_explainer_is_refused():
    with pytest.raises(ValueError, match="at least one explainer, got none"):
        similarity(matches([(0, 0, 1.0)]), {})


def test_no_matched_pair_is_refused():
    with pytest.raises(ValueError, match="expected at least one matched pair, got none"):
        similarity(matches([(0, 0, 1.0)]).slice(0, 0), {"lexical": {}})


def test_matches_without_frequencies_are_refused():
    found = matches([(0, 0, 1.0)])
    for column in ("frequency_a", "alive_b"):
        i = found.column_names.index(column)
        lacking = found.set_column(i, column, pa.nulls(1, found[column].type))
        with pytest.raises(ValueError, match=f"matches lack {column}"):
            similarity(lacking, {run: explanations({0: (0, 0)}) for run in "AB"})
    with pytest.raises(ValueError, match="matches lack alive_b"):
        draw_pairs(lacking, 3, 0)


def test_a_pair_that_is_not_matched_is_refused():
    found, tables = _random_world(n=20, runs=("A", "B"))
    wrong = pa.table({"run_a": ["A"], "run_b": ["B"], "feature_a": [3], "feature_b": [4]})
    with pytest.raises(ValueError, match="feature 3 of A and 4 of B are not matched; draw the pairs again"):
        similarity(found, tables, asked={"lexical": wrong})


def test_pairs_of_unknown_runs_and_pairs_given_twice_are_refused():
    found, tables = _random_world(n=20, runs=("A", "B"))
    sample = draw_pairs(found, 3, seed=0)
    elsewhere = sample.set_column(0, "run_a", pa.array(["Z"] * 3))
    for wrong, n in ((elsewhere, 0), (pa.concat_tables([sample, sample]), 3)):
        with pytest.raises(ValueError, match=f"that lexical was asked for, found {n}; draw the pairs again"):
            similarity(found, tables, asked={"lexical": wrong})


def test_a_pair_of_runs_without_chance_level_is_refused():
    from sae_core.similarity.matched_pairs import read_matches

    with pytest.raises(ValueError, match="no chance level for A and B"):
        read_matches(matches([(0, 0, 1.0)]), {("A", "C"): 0.1})
