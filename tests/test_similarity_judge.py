import numpy as np
import pytest

from sae_core.chat.messages import ChatModel, ChatUnavailable, Missing, Reply
from sae_core.config import SimilarityConfig
from sae_core.similarity.draws import draw_pairs
from sae_core.similarity.judge_measure import read_rating
from tests.made_up_similarity import MadeUpJudge, explanations, matches, similarity, texts_of

UNREADABLE = "the rating could not be read"


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("7", 7), (" 10\n", 10), ("7/10", 7), ("Rating: 8.", 8), ("8 out of 10", 8), ("\n6\n1 is nothing", 6),
        ("7.5", 7.5), ("**9**", 9), ("10/10", 10),
    ],
)  # fmt: skip
def test_the_only_number_of_the_first_line_is_the_rating(text, rating):
    assert read_rating(Reply(text, True, "")) == rating


@pytest.mark.parametrize("text", ["0", "11", "-3", "alike", "On a scale of 1 to 10, 7", "between 6 and 8", "100"])
def test_a_reply_that_could_mean_something_else_is_missing(text):
    assert read_rating(Reply(text, True, "")) == Missing(UNREADABLE)


def test_an_empty_or_failed_reply_keeps_its_reason():
    assert read_rating(Reply(" \n", True, "")) == Missing("the reply is empty")
    assert read_rating(Missing("HTTP 500")) == Missing("HTTP 500")


def _world(n=40, step=97.0):
    tables = {run: explanations({i: (step * i, step * i) for i in range(n)}) for run in "AB"}
    return matches([(i, i, 0.5 + i / (3 * n)) for i in range(n)], frequency=np.arange(1, n + 1) / n), tables


def _judged(report):
    return [row for row in report.pairs.to_pylist() if row["measure"] == "judge:lexical"]


def test_a_made_up_judge_is_a_chat_model():
    assert isinstance(MadeUpJudge(), ChatModel)


def test_the_rating_is_the_mean_of_both_orders_between_different_halves():
    tables = {"A": explanations({0: (0, 5)}), "B": explanations({0: (7, 180)})}
    judge = MadeUpJudge()
    report = similarity(matches([(0, 0, 0.9)]), tables, judge=judge)
    assert [texts_of(one) for one in judge.asked[0]] == [("0", "180"), ("180", "0")]
    assert _judged(report)[0]["similarity"] == pytest.approx((2 + 1) / 2)


def test_where_one_direction_is_missing_the_other_is_rated():
    judge = MadeUpJudge()
    tables = {"A": explanations({0: (0, 5)}), "B": explanations({0: (7, None)})}
    similarity(matches([(0, 0, 0.9)]), tables, judge=judge)
    assert [texts_of(one) for one in judge.asked[0]] == [("5", "7"), ("7", "5")]


def test_every_rated_pair_has_one_decoy_and_no_conversation_is_asked_twice():
    found, tables = _world()
    judge = MadeUpJudge()
    report = similarity(found, tables, config=SimilarityConfig(n_judged=15, n_permutations=19), judge=judge)
    measure = report.summary.measure("judge:lexical")
    assert (measure.n_asked, measure.n_used, measure.kind, measure.explainer) == (15, 15, "judge", "lexical")
    assert all(row["decoy_similarity"] is not None for row in _judged(report))
    assert len(judge.asked) == 2
    assert all(len(set(conversations)) == len(conversations) for conversations in judge.asked)
    assert len(judge.asked[1]) <= 2 * 15
    assert measure.auc > 0.5
    assert measure.auc_shuffled is None
    assert measure.noise_ceiling is None


def test_the_judged_are_among_those_asked_for():
    found, tables = _world()
    asked = draw_pairs(found, 10, seed=2)
    for n_judged, n in ((4, 4), (200, 10)):
        config = SimilarityConfig(n_judged=n_judged, n_permutations=19)
        report = similarity(found, tables, asked={"lexical": asked}, config=config, judge=MadeUpJudge())
        judged = {row["feature_a"] for row in _judged(report)}
        assert len(judged) == n
        assert judged <= set(asked["feature_a"].to_pylist())


def test_ratings_that_cannot_be_read_are_missing_and_counted():
    found, tables = _world(n=4)
    judge = MadeUpJudge({("0.0", "0.0"): "alike", ("97.0", "97.0"): Missing("HTTP 500")})
    report = similarity(found, tables, judge=judge)
    measure = report.summary.measure("judge:lexical")
    assert measure.missing == {UNREADABLE: 1, "HTTP 500": 1}
    assert measure.n_used == 2


def test_one_unreadable_order_is_enough_to_be_missing():
    tables = {"A": explanations({0: (0, 0)}), "B": explanations({0: (9, 9)})}
    report = similarity(matches([(0, 0, 0.9)]), tables, judge=MadeUpJudge({("9", "0"): "?"}))
    assert report.summary.measure("judge:lexical").missing == {UNREADABLE: 1}


def test_a_judge_out_of_reach_stops_the_work():
    class Unreachable(MadeUpJudge):
        def complete(self, conversations, stop=None, progress=None):
            raise ChatUnavailable("8 of 8 requests failed")

    found, tables = _world(n=4)
    with pytest.raises(ChatUnavailable, match="8 of 8"):
        similarity(found, tables, judge=Unreachable())
