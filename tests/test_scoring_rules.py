import numpy as np
import pytest
from sklearn import metrics

from sae_core.chat.messages import Missing
from sae_core.config import ScoringConfig
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import Clause
from sae_core.explaining.rules import Rule
from sae_core.scoring.formulas import normalised
from sae_core.scoring.grading import CONSTANT, NEVER_FIRES, NO_NEGATIVES
from sae_core.scoring.marks import right_marks, wrong_marks
from sae_core.scoring.results import SCORES, ScoreName
from sae_core.scoring.rule_scores import RuleScorer
from sae_core.scoring.tasks import KINDS, TaskChooser
from tests.tiny_scoring import contexts_of, made_up_text

ONE_WORD, TWO_WORDS, RANDOM, EVERYWHERE, IN_HALF_0 = range(5)
WORDS = (3, 4)


def clause(text, word, weight):
    return Clause("now", text.words.texts[word], weight, precision=1.0, recall=1.0)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def contexts(text):
    rng = np.random.default_rng(0)
    is_word = [text.word == word for word in WORDS]
    codes = np.zeros((len(text), 5))
    codes[:, ONE_WORD] = is_word[0] * rng.uniform(1, 2, len(text))
    codes[:, TWO_WORDS] = 3 * is_word[0] + 1 * is_word[1]
    codes[:, RANDOM] = (rng.random(len(text)) < 0.05) * rng.uniform(1, 2, len(text))
    codes[:, EVERYWHERE] = 1
    codes[:, IN_HALF_0] = codes[:, ONE_WORD] * (text.half == 0)
    return contexts_of(text, codes)


@pytest.fixture(scope="module")
def rules(text):
    first, second = (clause(text, word, weight) for word, weight in zip(WORDS, (3.0, 1.0), strict=True))
    after = Clause("before", text.words.texts[WORDS[0]], 2.0, 0.1, 0.1)
    shape = Clause("suffix", "xyz", 1.0, 0.1, 0.1)
    return {"one": Rule((first,)), "two": Rule((second, first)), "mixed": Rule((after, shape, second, first))}


@pytest.fixture(scope="module")
def scorer(rules, text, contexts):
    return RuleScorer(list(rules.values()), TokenAttributes(text), contexts, seed=0)


@pytest.fixture(scope="module")
def chooser(contexts):
    return TaskChooser(contexts, ScoringConfig())


def _score(scorer, chooser, rule, place, half=1):
    return scorer.score(rule, place, half, chooser.examples(place, half))


def test_a_rule_that_says_what_a_feature_does_has_perfect_scores(scorer, chooser, rules):
    for rule, place in (("one", ONE_WORD), ("two", TWO_WORDS)):
        scores = _score(scorer, chooser, rules[rule], place)
        for name in SCORES:
            if name.task != "embedding" and name.metric != "pearson":
                assert scores[name.task][name] == pytest.approx(1)
    assert _score(scorer, chooser, rules["two"], TWO_WORDS)["text"][ScoreName("text", "pearson")] == pytest.approx(1)


def test_a_rule_about_something_else_is_at_chance(scorer, chooser, rules):
    scores = _score(scorer, chooser, rules["one"], RANDOM)
    assert scores["text"][ScoreName("text", "auc")] == pytest.approx(0.5, abs=0.1)
    assert scores["text"][ScoreName("text", "pearson")] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("rule", ["one", "two", "mixed"])
@pytest.mark.parametrize("place", [ONE_WORD, TWO_WORDS, RANDOM])
def test_scores_on_all_tokens_are_those_of_sklearn(scorer, chooser, contexts, text, rules, rule, place, half):
    tokens = contexts.looked_at[text.half[contexts.looked_at] == half]
    predicted = rules[rule].predict(TokenAttributes(text), tokens)
    activation = np.zeros(len(text))
    activation[contexts.codes(place)[0]] = contexts.codes(place)[1]
    activation, fires = activation[tokens], activation[tokens] > 0
    expected = {
        "precision": metrics.precision_score(fires, predicted > 0),
        "recall": metrics.recall_score(fires, predicted > 0),
        "f1": metrics.f1_score(fires, predicted > 0),
        "auc": metrics.roc_auc_score(fires, predicted),
        "pearson": np.corrcoef(activation, predicted)[0, 1],
    }
    found = _score(scorer, chooser, rules[rule], place, half)["text"]
    assert {name.metric: value for name, value in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["one", "two", "mixed"])
@pytest.mark.parametrize("place", [ONE_WORD, TWO_WORDS, RANDOM])
def test_scores_on_examples_are_those_of_running_the_rule_on_each_of_them(
    scorer, chooser, contexts, text, rules, rule, place
):
    examples = chooser.examples(place, 1)
    scores = _score(scorer, chooser, rules[rule], place)
    predicted = rules[rule].predict(TokenAttributes(text), examples.tokens)
    marks = right_marks(examples), wrong_marks(examples, place, 0)
    largest, share = [], []
    for i, (begin, length) in enumerate(zip(examples.begin, examples.length, strict=True)):
        part = slice(begin, begin + length)
        largest.append(predicted[part].max())
        share.append(np.mean(predicted[part][marks[0 if examples.activating[i] else 1][part]] > 0))
    largest, share = np.array(largest), np.array(share)
    for task, values, says_yes in (("detection", largest, largest > 0), ("fuzzing", share, share >= 0.5)):
        for kind in (None, "random", "same_token", "near"):
            some = examples.activating | (kind is None) | (examples.kind == KINDS.index(kind or "near"))
            truth = examples.activating[some]
            expected = {
                "balanced_accuracy": metrics.balanced_accuracy_score(truth, says_yes[some]),
                "auc": metrics.roc_auc_score(truth, values[some]),
            }
            found = {metric: scores[task][ScoreName(task, metric, kind)] for metric in expected}
            assert found == pytest.approx(expected)
        f1 = metrics.f1_score(examples.activating, says_yes)
        assert scores[task][ScoreName(task, "f1")] == pytest.approx(f1)
    truth = normalised(examples.activations, float(contexts.max_activation[place, 1]))
    assert scores["simulation"][ScoreName("simulation", "pearson")] == pytest.approx(
        np.corrcoef(predicted, truth)[0, 1]
    )


def test_marks_in_the_same_text_tell_where_from_whether(scorer, chooser, text, contexts):
    """A rule that matches every word detects nothing, and cannot tell right from wrong marks either."""
    every = Rule(tuple(clause(text, word, 1.0) for word in range(len(text.words))))
    scores = RuleScorer([every], TokenAttributes(text), contexts, 0).score(
        every, ONE_WORD, 1, chooser.examples(ONE_WORD, 1)
    )
    for task, kind in (("detection", None), ("fuzzing", None), ("fuzzing", "same_text")):
        assert scores[task][ScoreName(task, "auc", kind)] == 0.5
        assert scores[task][ScoreName(task, "balanced_accuracy", kind)] == 0.5
    assert scores["simulation"] == CONSTANT
    assert scores["text"][ScoreName("text", "pearson")] is None


def test_a_rule_of_which_nothing_is_in_the_text_predicts_nothing(scorer, chooser):
    scores = _score(scorer, chooser, Rule((Clause("now", "nowhere", 1.0, 1.0, 1.0),)), ONE_WORD)
    assert scores["text"][ScoreName("text", "precision")] is None
    assert scores["text"][ScoreName("text", "recall")] == 0
    assert scores["detection"][ScoreName("detection", "balanced_accuracy")] == 0.5
    assert scores["simulation"] == CONSTANT


def test_a_feature_that_is_silent_in_the_other_half_has_no_scores(scorer, chooser, rules):
    scores = _score(scorer, chooser, rules["one"], IN_HALF_0)
    assert scores == dict.fromkeys(("text", "detection", "fuzzing", "simulation"), NEVER_FIRES)


def test_a_feature_that_fires_everywhere_cannot_be_detected(scorer, chooser, rules):
    scores = _score(scorer, chooser, rules["one"], EVERYWHERE)
    assert scores["text"] == scores["detection"] == scores["fuzzing"] == NO_NEGATIVES
    assert isinstance(scores["simulation"], Missing)


def test_one_rule_leaves_no_trace_on_the_next(scorer, chooser, rules):
    first = _score(scorer, chooser, rules["one"], RANDOM)
    _score(scorer, chooser, rules["mixed"], TWO_WORDS)
    assert _score(scorer, chooser, rules["one"], RANDOM) == first
