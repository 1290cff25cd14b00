import numpy as np
import pytest

from sae_core.config import ScoringConfig
from sae_core.scoring.marks import right_marks, wrong_marks
from sae_core.scoring.tasks import KINDS, TaskChooser
from tests.tiny_scoring import contexts_of, made_up_text

OFTEN, TWICE, NOT_IN_HALF_1 = 0, 1, 2
CONFIG = ScoringConfig(n_activating=10, n_non_activating=5)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def contexts(text):
    rng = np.random.default_rng(0)
    codes = np.zeros((len(text), 3))
    codes[:, OFTEN] = (text.word == text.word[1]) * rng.uniform(1, 10, len(text))
    for half in range(2):
        codes[np.flatnonzero(text.half == half)[[10, 200]], TWICE] = 1, 2
    codes[:, NOT_IN_HALF_1] = codes[:, OFTEN] * (text.half == 0)
    return contexts_of(text, codes)


@pytest.fixture(scope="module")
def examples(contexts):
    return TaskChooser(contexts, CONFIG).examples(OFTEN, 1)


def _kinds(examples):
    return [KINDS[kind] for kind in examples.kind]


def test_activating_examples_are_spread_over_the_quantiles_and_others_are_as_many_of_each_kind(contexts, examples):
    kinds = _kinds(examples)
    assert {kind: kinds.count(kind) for kind in kinds} == {"quantile": 10, "random": 5, "same_token": 5, "near": 5}
    whole = contexts.examples(OFTEN, 1)
    quantile_of = {each.start + each.peak: each.quantile for each in whole if each.kind == "quantile"}
    assert sorted(quantile_of[token] for token in examples.start[:10] + examples.peak[:10]) == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]


def test_a_feature_that_fired_rarely_is_scored_on_its_strongest_examples(contexts):
    examples = TaskChooser(contexts, CONFIG).examples(TWICE, 0)
    assert _kinds(examples)[:3] == ["strongest", "strongest", "random"]


def test_examples_are_those_of_the_table_with_their_activations(contexts, text, examples):
    whole = {(each.kind, each.start, each.peak): each for each in contexts.examples(OFTEN, 1)}
    for i, activations in enumerate(np.split(examples.activations, examples.begin[1:])):
        stored = whole[KINDS[examples.kind[i]], int(examples.start[i]), int(examples.peak[i])]
        np.testing.assert_array_equal(activations, stored.activations)
        assert examples.activating[i] == stored.activating
        tokens = examples.tokens[examples.begin[i] : examples.begin[i] + examples.length[i]]
        assert tokens.tolist() == list(range(stored.start, stored.stop))
    assert set(text.half[examples.tokens]) == {1}


def test_other_examples_are_chosen_under_another_seed_only(contexts, examples):
    again = TaskChooser(contexts, CONFIG).examples(OFTEN, 1)
    other = TaskChooser(contexts, CONFIG.model_copy(update={"seed": 1})).examples(OFTEN, 1)
    assert again.start.tolist() == examples.start.tolist() != other.start.tolist()


def test_fewer_examples_are_among_the_more(contexts, examples):
    fewer = ScoringConfig(n_activating=5, n_non_activating=2)
    assert set(TaskChooser(contexts, fewer).examples(OFTEN, 1).start) <= set(examples.start)


def test_a_feature_that_is_silent_in_a_half_has_no_activating_example_there(contexts):
    chooser = TaskChooser(contexts, CONFIG)
    assert not chooser.examples(NOT_IN_HALF_1, 1).activating.any()
    assert chooser.examples(NOT_IN_HALF_1, 0).activating.any()


def test_a_mark_is_right_on_tokens_of_at_least_three_tenths_of_the_examples_largest_activation(examples):
    parts = np.split(right_marks(examples), examples.begin[1:])
    for activations, marks in zip(np.split(examples.activations, examples.begin[1:]), parts, strict=True):
        expected = [value > 0 and value >= np.float32(0.3) * activations.max() for value in activations]
        assert marks.tolist() == expected


def test_wrong_marks_are_as_many_as_an_activating_example_has_active_tokens_on_average(examples):
    active = [np.count_nonzero(part) for part in np.split(examples.activations, examples.begin[1:])]
    n_marks = int(
        np.ceil(np.mean([n for n, activating in zip(active, examples.activating, strict=True) if activating]))
    )
    marks = np.split(wrong_marks(examples, OFTEN, 0), examples.begin[1:])
    free = np.split(examples.activations <= 0.3 * examples.largest[examples.example], examples.begin[1:])
    assert [part.sum() for part in marks] == [min(n_marks, part.sum()) for part in free]
    assert not any((part & ~allowed).any() for part, allowed in zip(marks, free, strict=True))


def test_the_token_that_an_example_is_about_is_marked_wrongly_unless_the_feature_fires_on_it(examples):
    marks = wrong_marks(examples, OFTEN, 0)
    about = examples.begin + examples.peak
    np.testing.assert_array_equal(marks[about], examples.activations[about] <= 0.3 * examples.largest)
    assert marks[about][~examples.activating].all()


def test_wrong_marks_depend_on_seed_and_feature(examples):
    marks = wrong_marks(examples, OFTEN, 0)
    np.testing.assert_array_equal(marks, wrong_marks(examples, OFTEN, 0))
    assert (marks != wrong_marks(examples, OFTEN, 1)).any()
    assert (marks != wrong_marks(examples, 7, 0)).any()


def test_wrong_marks_need_an_activating_example(contexts):
    silent = TaskChooser(contexts, CONFIG).examples(NOT_IN_HALF_1, 1)
    with pytest.raises(ValueError, match="expected activating examples, which say how many tokens to mark, got none"):
        wrong_marks(silent, NOT_IN_HALF_1, 0)
