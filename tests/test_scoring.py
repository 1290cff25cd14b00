import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_core.chat.messages import Missing
from sae_core.config import ScoringConfig
from sae_core.explaining.clauses import Clause
from sae_core.explaining.rules import Rule
from sae_core.explaining.table import EXPLANATION_SCHEMA
from sae_core.scoring.grading import NEVER_FIRES
from sae_core.scoring.results import NEGATIVES, SCORE_SCHEMA, SCORES, TASKS, ScoreName, ScoresSummary
from sae_core.scoring.score import score_run
from sae_core.scoring.summary import summarise
from tests.test_scoring_models import Reader, embed
from tests.tiny_contexts import PLANTED, made_up_contexts
from tests.tiny_scoring import contexts_of, made_up_text

N_WORDS = 6
IN_HALF_0 = N_WORDS


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def contexts(text):
    """Feature i fires on word i; the last one on a word of half 0."""
    codes = np.stack([text.word == word for word in range(N_WORDS)] + [(text.word == 9) & (text.half == 0)], axis=1)
    return contexts_of(text, 2.0 * codes)


def explanations(text, features, rules):
    rows = []
    for feature in features:
        word = text.words.texts[9 if feature == IN_HALF_0 else feature]
        rule = Rule((Clause("now", word, 1.0, 1.0, 1.0),)).to_json() if rules else None
        for half in range(2):
            rows.append(
                {name: [] for name in ("words", "promoted", "examples")}
                | {"feature": feature, "half": half, "explanation": word, "rule": rule}
                | {"n_activations": 1, "frequency": 0.1}
            )
    return pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA)


def _run(folder, contexts, text, table, scorer=None, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    summary = score_run(folder, contexts, text, table, embed, scorer, ScoringConfig(**fields))
    return ScoresSummary.model_validate(summary), pq.read_table(folder / "scores.parquet")


def test_every_explanation_has_a_row_and_rules_are_scored_without_a_model(tmp_path, contexts, text):
    summary, table = _run(tmp_path, contexts, text, explanations(text, range(N_WORDS), rules=True))
    assert table.schema.equals(SCORE_SCHEMA)
    assert table.num_rows == summary.n_explanations == summary.n_rules == 2 * N_WORDS
    for name in SCORES:
        values = table[str(name)].to_pylist()
        assert None not in values
        if name.task != "embedding":
            assert values == pytest.approx([1] * len(values))
    assert summary.scorer is None
    assert summary.n_trials == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == summary.model_dump(mode="json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.parquet", "summary.json"]


def test_an_explanation_is_scored_on_the_half_that_did_not_make_it(tmp_path, contexts, text):
    _, table = _run(tmp_path, contexts, text, explanations(text, [IN_HALF_0], rules=True))
    made_by_0, made_by_1 = table.to_pylist()
    assert made_by_0["detection_auc"] is None
    assert made_by_0["detection_missing"] == made_by_0["embedding_missing"] == NEVER_FIRES.reason
    assert made_by_1["detection_auc"] == 1
    assert made_by_1["detection_missing"] is None


def test_explanations_that_are_missing_have_no_row(tmp_path, contexts, text):
    rows = explanations(text, range(2), rules=True).to_pylist()
    rows[1] |= {"explanation": None, "rule": None, "missing_reason": "fired too rarely"}
    summary, table = _run(tmp_path, contexts, text, pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA))
    assert summary.n_explanations == 3
    assert list(zip(table["feature"].to_pylist(), table["half"].to_pylist(), strict=True)) == [(0, 0), (1, 0), (1, 1)]


def test_explanations_in_words_are_read_for_as_many_features_as_asked(tmp_path, contexts, text):
    table = explanations(text, range(N_WORDS), rules=False)
    summary, scores = _run(tmp_path, contexts, text, table, Reader(), n_scored=2, n_embedded=3)
    assert {str(each.task) for each in summary.scores} == {"detection", "fuzzing", "simulation", "embedding"}
    assert summary.score("detection_auc").n == summary.score("simulation_pearson").n == 4
    assert summary.score("embedding_auc").n == 6
    assert summary.scorer == "reader"
    read, embedded = (
        {row["feature"] for row in scores.to_pylist() if row[column] is not None}
        for column in ("detection_auc", "embedding_auc")
    )
    assert len(read) == 2
    assert read < embedded
    assert scores["text_auc"].null_count == scores["fuzzing_auc_same_text"].null_count == scores.num_rows


def test_without_a_scorer_explanations_in_words_are_compared_by_embeddings_only(tmp_path, contexts, text):
    summary, _ = _run(tmp_path, contexts, text, explanations(text, range(N_WORDS), rules=False))
    assert {each.task for each in summary.scores} == {"embedding"}
    assert summary.score("detection_auc") is None
    nothing, _ = _run(tmp_path, contexts, text, explanations(text, [0], rules=False), n_embedded=0)
    assert nothing.scores == []


def test_two_explainers_are_scored_on_the_same_examples_and_features(tmp_path, contexts, text):
    """So a wrong and a right explanation differ by what they say alone."""
    tables = [explanations(text, range(N_WORDS), rules=rules) for rules in (False, True)]
    runs = [
        _run(tmp_path / name, contexts, text, table, Reader(), n_embedded=3, n_scored=3)[1]
        for name, table in zip("ab", tables, strict=True)
    ]
    assert runs[0]["embedding_auc"].equals(runs[1]["embedding_auc"])


def test_a_score_does_not_depend_on_which_other_features_are_scored(tmp_path, contexts, text):
    _, few = _run(tmp_path / "few", contexts, text, explanations(text, [2, 4], rules=True))
    _, all_ = _run(tmp_path / "all", contexts, text, explanations(text, range(N_WORDS), rules=True))
    kept = [row for row in all_.to_pylist() if row["feature"] in (2, 4)]
    assert few.to_pylist() == kept


def test_the_same_explanations_give_the_same_files(tmp_path, contexts, text):
    table = explanations(text, range(N_WORDS), rules=True)
    for name in "ab":
        _run(tmp_path / name, contexts, text, table)
    for file in ("scores.parquet", "summary.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_explanations_of_another_run_are_refused(tmp_path, contexts, text):
    row = explanations(text, [1], rules=False).to_pylist()[0] | {"feature": 77}
    message = "expected explanations of the 7 features of these contexts, got one of feature 77"
    with pytest.raises(ValueError, match=message):
        _run(tmp_path, contexts, text, pa.Table.from_pylist([row], schema=EXPLANATION_SCHEMA))


def test_a_summary_counts_what_is_missing_by_reason():
    precision, auc, near = (
        ScoreName("text", "precision"), ScoreName("detection", "auc"), ScoreName("detection", "auc", "near"),
    )  # fmt: skip
    summary = summarise(
        [
            {"text": {precision: None}, "detection": {auc: 0.5, near: None}},
            {"text": {precision: 0.5}, "detection": {auc: 1.0, near: 0.75}},
            {"text": NEVER_FIRES, "detection": Missing("HTTP 500")},
            {"text": {precision: 0.2}},
        ],
        n_rules=4,
    )
    assert summary.score("text_precision").missing == {"nothing is predicted": 1, NEVER_FIRES.reason: 1}
    assert summary.score("text_precision").median == pytest.approx(0.35)
    assert (summary.score("detection_auc").mean, summary.score("detection_auc").n) == (0.75, 2)
    assert summary.score("detection_auc").missing == {"HTTP 500": 1}
    assert summary.score("detection_auc_near").missing["the other half has no example of this kind"] == 1
    assert summary.score("detection_auc").chance == 0.5
    assert summary.score("text_precision").chance is None


def test_columns_are_named_by_task_metric_and_negatives():
    names = [str(name) for name in SCORES]
    assert len(set(names)) == len(names)
    assert names[:3] == ["text_precision", "text_recall", "text_f1"]
    for task in TASKS:
        for kind in NEGATIVES[task]:
            assert f"{task}_auc_{kind}" in names


def test_results_are_read_without_a_language_model_or_an_embedder():
    code = "import sys, sae_core.scoring.results; print({'torch', 'transformers', 'numba'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_rules_about_planted_features_are_told_from_wrong_ones(tmp_path):
    """On contexts as the pipeline collects them: "dog" fires on that word, "ing" on the last token of a word."""
    world = made_up_contexts(tmp_path)
    rules = {
        "dog": Clause("now", "dog", 2.0, 1.0, 1.0),
        "ing": Clause("suffix", "ing", 1.0, 0.5, 1.0),
        "number": Clause("now", "dog", 2.0, 1.0, 1.0),
    }
    rows = [
        {"feature": PLANTED.index(name), "half": half, "explanation": clause.text(), "rule": Rule((clause,)).to_json()}
        | {"n_activations": 1, "frequency": 0.1, "words": [], "promoted": [], "examples": []}
        for name, clause in rules.items()
        for half in range(2)
    ]
    _, table = _run(tmp_path, world.contexts, world.text, pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA))
    dog, ing, number = table.to_pylist()[::2]
    assert dog["text_f1"] == dog["detection_auc"] == dog["fuzzing_auc"] == dog["fuzzing_auc_same_text"] == 1
    assert 0.75 < ing["text_auc"] < 1  # "king" is no word with an ending
    assert ing["detection_balanced_accuracy"] > 0.75
    assert number["text_f1"] < 0.2
    assert number["detection_balanced_accuracy"] < 0.8
