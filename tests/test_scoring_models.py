"""Scores that need a model: one that reads explanations, or a sentence embedder. Here both are a few lines."""

import json
import re

import numpy as np
import pytest
from sklearn import metrics

from sae_core.chat.messages import Missing, Reply, Usage
from sae_core.config import ScoringConfig
from sae_core.scoring.chat_scores import CUT_OFF, OTHER_LENGTH, UNREADABLE, Subject, chat_scores, read_simulation
from sae_core.scoring.embedding_scores import embedding_scores
from sae_core.scoring.formulas import normalised
from sae_core.scoring.grading import NEVER_FIRES
from sae_core.scoring.results import ScoreName
from sae_core.scoring.tasks import KINDS, TaskChooser
from tests.tiny_scoring import contexts_of, made_up_text

WORD, IN_HALF_0 = 0, 1
DOWN = Missing("the endpoint could not be reached")


class Reader:
    """Says yes, or 7, where it sees the explanation as a word; what ``spoil`` returns takes the place of its answer."""

    digest, usage = "reader", Usage()

    def __init__(self, spoil=lambda number, answer: answer):
        self.spoil, self.asked = spoil, []

    def choose(self, conversations, options, progress=None):
        assert tuple(options) == ("yes", "no")
        self.asked += conversations
        return [self.spoil(i, self._choice(each[-1].content)) for i, each in enumerate(conversations)]

    def complete(self, conversations, stop=None, progress=None):
        self.asked += conversations
        return [self.spoil(i, self._simulation(each[-1].content)) for i, each in enumerate(conversations)]

    def _choice(self, question):
        word, excerpt = re.search(r"Pattern: (\w+)\n\nExcerpt: (.*)\n", question).groups()
        marked = re.findall(r"<<(.*?)>>", excerpt)
        share = np.mean([word in words.split() for words in marked]) if marked else word in excerpt.split()
        return [float(0.1 + 0.8 * share), float(0.9 - 0.8 * share)]

    def _simulation(self, question):
        word = re.search(r"Description: (\w+)\n", question)[1]
        tokens = json.loads(question[question.index("[") :])
        assert f"There are {len(tokens)} tokens" in question
        return Reply(json.dumps([7 * (token.strip() == word) for token in tokens]), True, "digest")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def contexts(text):
    codes = np.zeros((len(text), 2))
    codes[:, WORD] = (text.word == 3) * np.random.default_rng(0).uniform(5, 10, len(text))
    codes[:, IN_HALF_0] = codes[:, WORD] * (text.half == 0)
    return contexts_of(text, codes)


@pytest.fixture(scope="module")
def subject(text, contexts):
    """The feature of one word, explained by that word or another."""
    examples = TaskChooser(contexts, ScoringConfig()).examples(WORD, 1)
    largest = float(contexts.max_activation[WORD, 1])
    return lambda word=3: Subject(WORD, text.words.texts[word], largest, examples)


def test_an_explanation_that_says_what_the_feature_does_has_perfect_scores(subject, text):
    found = chat_scores([subject()], text, Reader(), seed=0)
    scores = found.scores[0]
    for task in ("detection", "fuzzing"):
        assert scores[task][ScoreName(task, "balanced_accuracy")] == 1
        assert scores[task][ScoreName(task, "auc", "near")] == 1
    truth = normalised(subject().examples.activations, subject().largest)
    expected = np.corrcoef(truth, truth > 0)[0, 1]
    assert scores["simulation"][ScoreName("simulation", "pearson")] == pytest.approx(expected)
    assert found.n_trials == 3 * len(subject().examples.kind)
    assert found.missing_trials == {}


def test_every_explanation_gets_the_answers_to_its_own_questions(subject, text):
    right, wrong = subject(3), subject(5)
    together = chat_scores([wrong, right, wrong], text, Reader(), seed=0).scores
    alone = [chat_scores([each], text, Reader(), seed=0).scores[0] for each in (wrong, right)]
    assert together == [alone[0], alone[1], alone[0]]
    assert alone[0] != alone[1]


def test_marks_are_right_in_activating_examples_only(subject, text):
    reader = Reader()
    chat_scores([subject()], text, reader, seed=0)
    questions = [turns[-1].content for turns in reader.asked if "<<" in turns[-1].content]
    word = subject().explanation
    # A run of tokens has one pair of marks, with the space before the word inside.
    right = [all(word in found.split() for found in re.findall("<<(.*?)>>", text)) for text in questions]
    assert right == subject().examples.activating.tolist()


def test_questions_without_an_answer_are_left_out_and_counted(subject, text):
    reader = Reader(lambda i, answer: DOWN if i % 3 == 0 else answer)
    found = chat_scores([subject(5)], text, reader, seed=0)
    examples = subject().examples
    given = np.arange(len(examples.kind)) % 3 > 0
    answers = np.array([each[0] for each in Reader().choose(reader.asked[: len(given)], ("yes", "no"))])
    expected = metrics.roc_auc_score(examples.activating[given], answers[given])
    assert found.scores[0]["detection"][ScoreName("detection", "auc")] == pytest.approx(expected)
    assert found.missing_trials == {DOWN.reason: 3 * int((~given).sum())}


def test_without_answers_the_reason_takes_the_place_of_the_scores(subject, text):
    found = chat_scores([subject()], text, Reader(lambda i, answer: DOWN), seed=0)
    assert found.scores == [dict.fromkeys(("detection", "fuzzing", "simulation"), DOWN)]


def test_without_answers_about_activating_examples_there_is_no_score(subject, text):
    firing = int(subject().examples.activating.sum())
    found = chat_scores([subject()], text, Reader(lambda i, answer: DOWN if i < firing else answer), seed=0)
    assert found.scores == [dict.fromkeys(("detection", "fuzzing", "simulation"), DOWN)]


def test_a_feature_that_is_silent_in_the_other_half_costs_no_question(contexts, text, subject):
    silent = Subject(IN_HALF_0, "ba", 1.0, TaskChooser(contexts, ScoringConfig()).examples(IN_HALF_0, 1))
    found = chat_scores([silent, subject()], text, Reader(), seed=0)
    assert found.scores[0] == dict.fromkeys(("detection", "fuzzing", "simulation"), NEVER_FIRES)
    assert found.scores[1] == chat_scores([subject()], text, Reader(), seed=0).scores[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("[0, 10, 2.5]", [0, 10, 2.5]),
        ("Here it is:\n[0,1,2]\n[3]", [0, 1, 2]),
        ("[0, 1]", OTHER_LENGTH),
        ("[]", OTHER_LENGTH),
        ("[0, 1, 11]", UNREADABLE),
        ("[0, -1, 1]", UNREADABLE),
        ("[0, true, 1]", UNREADABLE),
        ("[0, NaN, 1]", UNREADABLE),
        ('["0", 1, 2]', UNREADABLE),
        ("[[0, 1, 2]]", UNREADABLE),
        ("0, 1, 2", UNREADABLE),
        ("] 0 [", UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_a_simulation_is_one_number_from_0_to_10_a_token_or_missing(reply, expected):
    found = read_simulation(Reply(reply, True, ""), 3)
    assert found == expected if isinstance(expected, Missing) else found.tolist() == expected


def test_a_simulation_that_was_cut_off_is_missing_for_that_reason():
    assert read_simulation(Reply("[0, 0, 0", False, ""), 3) == CUT_OFF
    assert read_simulation(DOWN, 3) == DOWN


def embed(texts):
    """How often each word of a text begins with which letter, and something so that no vector is zero."""
    counts = [[sum(word[0] == letter for word in text.split()) for letter in "bdfgklmnprst"] for text in texts]
    return np.column_stack([np.array(counts, float), np.full(len(texts), 0.1)])


def test_embedding_auc_is_that_of_the_cosines(subject, text):
    seen = []
    examples = subject().examples
    explanations = [subject(3).explanation, subject(5).explanation]

    def noted(texts):
        seen.extend(texts)
        return embed(texts)

    found = embedding_scores(explanations, [examples, examples], text, noted)
    assert len(seen) == len(set(seen))
    windows = [
        text.text(int(start), int(start + length))
        for start, length in zip(examples.start, examples.length, strict=True)
    ]
    unit = [row / np.linalg.norm(row) for row in embed(windows)]
    for explanation, scores in zip(explanations, found, strict=True):
        query = embed([explanation])[0]
        cosine = np.array([query @ row / np.linalg.norm(query) for row in unit]).round(5)
        assert scores[ScoreName("embedding", "auc")] == pytest.approx(
            metrics.roc_auc_score(examples.activating, cosine), abs=1e-3
        )
        near = examples.activating | (examples.kind == KINDS.index("near"))
        expected = metrics.roc_auc_score(examples.activating[near], cosine[near])
        assert scores[ScoreName("embedding", "auc", "near")] == pytest.approx(expected, abs=1e-3)


def test_without_examples_there_is_nothing_to_compare_with(contexts, text):
    some = TaskChooser(contexts, ScoringConfig()).examples(IN_HALF_0, 1)
    assert embedding_scores(["ba"], [some], text, embed) == [NEVER_FIRES]
    assert embedding_scores([], [], text, embed) == []
