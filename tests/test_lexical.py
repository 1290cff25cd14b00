import dataclasses

import numpy as np
import pytest

from sae_core.chat.messages import Missing
from sae_core.config import LexicalExplainer as Settings
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.explanations import Explainer, Explanation
from sae_core.explaining.lexical import NO_RULE, LexicalExplainer
from tests.tiny_contexts import PLANTED, made_up_contexts


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made_up_contexts(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def attributes(world):
    return TokenAttributes(world.text)


@pytest.fixture
def explainer(world, attributes):
    return LexicalExplainer(Settings(), world.contexts, world.text, attributes)


def explain(explainer, world, name):
    """Explanations of a planted feature, of both halves."""
    return explainer.explain([(world.place(name), half) for half in (0, 1)])


def held_out_f1(world, attributes, name, half, rule):
    """F1 of a rule on the half that it has not seen."""
    other = world.contexts.looked_at[world.text.half[world.contexts.looked_at] == 1 - half]
    fires = world.codes[other, PLANTED.index(name)] > 0
    predicted = rule.predict(attributes, other) > 0
    return 2 * (fires & predicted).sum() / (fires.sum() + predicted.sum())


@pytest.mark.parametrize(
    ("name", "kind", "value"), [("dog", "now", "dog"), ("after of", "before", "of"), ("number", "shape", "numbers")]
)
def test_a_planted_pattern_is_the_first_clause_and_predicts_the_other_half(
    world, attributes, explainer, name, kind, value
):
    for half, found in enumerate(explain(explainer, world, name)):
        first = found.rule.clauses[0]
        assert (first.kind, first.value) == (kind, value)
        assert held_out_f1(world, attributes, name, half, found.rule) > 0.95


def test_a_planted_ending_is_found_whatever_the_tokens(world, attributes, explainer):
    for half, found in enumerate(explain(explainer, world, "ing")):
        assert held_out_f1(world, attributes, "ing", half, found.rule) > 0.6
        assert "running" in found.text or "eating" in found.text or "-ing" in found.text


def test_a_rule_about_noise_does_not_predict_the_other_half(world, attributes, explainer):
    for half, found in enumerate(explain(explainer, world, "noise")):
        assert held_out_f1(world, attributes, "noise", half, found.rule) < 0.2


def test_a_feature_that_fires_everywhere_is_missing_with_a_reason(world, explainer):
    assert explain(explainer, world, "everywhere") == [NO_RULE, NO_RULE]
    assert isinstance(NO_RULE, Missing)


def test_the_text_of_a_word_is_the_word_without_a_label(world, explainer):
    assert {found.text for found in explain(explainer, world, "dog")} == {"dog"}
    assert {found.text.split(", ")[0] for found in explain(explainer, world, "after of")} == {'after "of"'}


def test_the_words_of_a_text_are_those_that_its_clauses_mean_and_the_feature_fires_on(world, attributes, explainer):
    for name in ("dog", "ing", "noise"):
        for half, found in enumerate(explain(explainer, world, name)):
            fires = np.flatnonzero((world.codes[:, PLANTED.index(name)] > 0) & (world.text.half == half))
            meant = fires[found.rule.predict(attributes, fires) > 0]
            phrases = [clause.text() for clause in found.rule.clauses]
            words = [part for part in found.text.split(", ") if part not in phrases]
            assert set(words) <= {world.text.words.texts[word] for word in world.text.word[meant]}


def test_an_explanation_has_a_rule_and_no_prompt(world, explainer):
    for found in explain(explainer, world, "number"):
        assert isinstance(found, Explanation)
        assert found.rule is not None
        assert found.prompt_digest is found.reply is None


def test_a_half_is_explained_from_its_own_codes_alone(world, attributes):
    contexts = world.contexts
    activation = np.where(world.text.half[contexts.code_token] == 0, contexts.code_activation, 7.0).astype(np.float32)
    changed = dataclasses.replace(contexts, code_activation=activation)
    slots = [(place, 0) for place in range(len(contexts.features))]
    other = [(place, 1) for place in range(len(contexts.features))]
    before, after = (LexicalExplainer(Settings(), each, world.text, attributes) for each in (contexts, changed))
    assert before.explain(slots) == after.explain(slots)
    assert before.explain(other) != after.explain(other)


def test_explanations_do_not_depend_on_which_slots_are_asked_for_or_in_which_order(world, attributes, explainer):
    slots = [(place, half) for place in range(len(world.contexts.features)) for half in (0, 1)]
    found = explainer.explain(slots)
    assert explainer.explain(slots[::-1]) == found[::-1]
    alone = LexicalExplainer(Settings(), world.contexts, world.text)
    assert [alone.explain([slot])[0] for slot in slots] == found


def test_a_rule_has_at_most_so_many_clauses(world, attributes):
    few = LexicalExplainer(Settings(n_clauses=2), world.contexts, world.text, attributes)
    assert [len(found.rule.clauses) for found in explain(few, world, "noise")] == [2, 2]


def test_words_of_the_logit_lens_join_the_text_where_asked_for(world, attributes):
    contexts = dataclasses.replace(world.contexts, promoted=[["fur", "tail", "paw"]] * len(world.contexts.features))
    explainer = LexicalExplainer(Settings(n_promoted=2), contexts, world.text, attributes)
    assert [found.text for found in explain(explainer, world, "dog")] == ["dog, fur, tail"] * 2


def test_progress_ends_with_all_slots(world, explainer):
    seen = []
    slots = [(world.place("dog"), 0)] * 300
    explainer.explain(slots, lambda done, total, text: seen.append((done, total, text)))
    assert seen[-1] == (300, 300, "300 of 300 rules found")


def test_it_is_an_explainer(explainer):
    assert isinstance(explainer, Explainer)
    assert explainer.name == "lexical"
    assert explainer.explain([]) == []
