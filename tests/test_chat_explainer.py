import numpy as np
import pyarrow as pa
import pytest

from sae_core.chat import Message, Missing, Reply, ReplyStore, Usage
from sae_core.chat.openai import OpenAIChatModel
from sae_core.chat.requests import LONG_PROMPT
from sae_core.config import LanguageModelConfig, LocalExplainer, OpenAIExplainer
from sae_core.explaining.answers import (
    EMPTY,
    NO_LETTERS,
    NO_MARK,
    OTHER_LANGUAGE,
    REPEATED,
    UNFINISHED,
    is_other_language,
    read_category,
    read_explanation,
)
from sae_core.explaining.chat_explainer import NO_EXAMPLES, NO_WORDS, ChatExplainer
from sae_core.explaining.evidence import choose_examples, levels, list_words, show_examples
from sae_core.explaining.explanations import Explainer, Explanation
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, WORD_SCHEMA, Example, FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.words import Segmenter
from tests.misbehaving_server import Server, refuse, say
from tests.tiny_contexts import byte_level, write_split

N = 12


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    tokenizer = byte_level()
    ids = tokenizer("the dog and the horse saw the\ndog the dog and the horse", add_special_tokens=False)["input_ids"]
    ids = np.array([[0, *ids]])
    documents = np.where(ids == 0, -1, 0)
    split = write_split(tmp_path_factory.mktemp("contexts"), ids, documents)
    return HeldOutText(split, Segmenter(tokenizer, frozenset({0})))


def _example(kind, quantile, start, activations):
    values = np.asarray(activations, np.float32)
    return Example(kind, quantile, start, int(values.argmax()), values)


def _contexts(rows, words):
    """Contexts with examples of (feature, half) and words of (feature, half); features 3 and 5."""
    columns = {name: [] for name in EXAMPLE_SCHEMA.names}
    for feature, half, example in rows:
        given = (feature, half, example.kind, example.quantile, example.start, len(example.activations), example.peak)
        values = (*given, float(example.activations.max()), example.activations.tolist(), "")
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    shares = [
        {"feature": f, "half": h, "place": "now", "word": w, "share": 0.1, "score": score} for f, h, w, score in words
    ]
    return FeatureContexts(
        d_sae=8,
        features=np.array([3, 5]),
        n_fired=np.full((2, 2), 9),
        n_tokens=np.array([50, 50]),
        max_activation=np.full((2, 2), 4, np.float32),
        promoted=[[], []],
        code_start=np.zeros(3, np.int64),
        code_token=np.zeros(0, np.int64),
        code_activation=np.zeros(0, np.float32),
        example_table=pa.table(columns, schema=EXAMPLE_SCHEMA),
        word_table=pa.Table.from_pylist(shares, schema=WORD_SCHEMA),
        looked_at=np.arange(50),
    )


def _many(half, n):
    return [(3, half, _example("strongest", -1, 1, [0, 4.0 - i / 10, 0])) for i in range(n)]


def _openai(**fields):
    given = {"max_retries": 0, "max_failed": 1.0, "base_url": "http://127.0.0.1:1/v1"} | fields
    return OpenAIExplainer(kind="openai", model="m", **given)


class Writes:
    """Answers every prompt with the same words; finished or not."""

    digest, usage = "0", Usage()

    def __init__(self, text, finished=True):
        self.text, self.finished, self.asked, self.stops = text, finished, [], []

    def complete(self, conversations, stop=None, progress=None):
        self.asked += conversations
        self.stops.append(stop)
        return [Reply(self.text, self.finished, f"digest {i}") for i in range(len(conversations))]

    def choose(self, conversations, options, progress=None):
        raise AssertionError("an explainer writes")


def test_examples_show_the_marked_tokens_and_their_activations_from_one_to_ten(text):
    pieces = text.pieces(1, 6)
    example = _example("strongest", -1, 1, [0, 4.0, 1.3, 1.2, 0])
    shown = show_examples([example, example], 4.0, text)
    first, activations, empty, *_ = shown.split("\n")
    marked = f"{pieces[0]}<<{pieces[1]}{pieces[2]}>>{pieces[3]}{pieces[4]}"
    assert first == "Example 1: " + marked
    assert activations == f'Activations: ("{pieces[1]}", 10), ("{pieces[2]}", 4)'
    assert empty == ""
    assert shown.split("\n")[3] == "Example 2: " + marked


def test_an_example_is_one_line_whatever_its_text(text):
    everything = show_examples([_example("strongest", -1, 1, np.ones(len(text) - 1))], 1.0, text)
    assert len(everything.split("\n")) == 2
    assert "\\n" in everything


def test_levels_are_those_of_the_formula():
    assert levels(np.array([0, 1e-9, 1, 1.001, 5, 10], np.float32), 10.0).tolist() == [0, 1, 1, 2, 5, 10]
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.random(20, dtype=np.float32)
        assert levels(values, float(values.max())).max() == 10


def test_examples_are_taken_from_the_strongest_and_every_quantile_in_turn():
    strongest = [_example("strongest", -1, i, [4.0]) for i in range(4)]
    quantiles = [_example("quantile", q, 10 * q + i, [1.0]) for q in range(3) for i in range(2)]
    negative = [_example("random", -1, 99, [0.0])]
    chosen = choose_examples(strongest + quantiles + negative, 6)
    assert [example.start for example in chosen] == [0, 1, 0, 1, 10, 20]
    assert choose_examples(strongest + quantiles, 1) == strongest[:1]
    assert len(choose_examples(strongest + quantiles + negative, 50)) == 10


def test_words_that_tell_little_are_left_out():
    words = [(3, 0, "dog", 2.0), (3, 0, "cat", 0.21), (3, 0, "the", 0.19), (3, 0, "of", -0.1), (3, 1, "cow", 1.0)]
    contexts = _contexts([], words)
    assert list_words(contexts, 0, 0, 9) == ["dog", "cat"]
    assert list_words(contexts, 0, 0, 1) == ["dog"]
    assert list_words(contexts, 0, 1, 9) == ["cow"]
    assert list_words(contexts, 1, 0, 9) == []


PROMPT = (
    Message(
        "system", "Say what the marked tokens have in common in one short phrase of English.\n[EXPLANATION]: the phrase"
    ),
    Message("user", "Example 1: a <<dog>>"),
    Message("assistant", "[EXPLANATION]: names of small animals"),
    Message("user", "Example 1: a <<cow>>"),
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[EXPLANATION]: farm animals", "farm animals"),
        ('They are all animals.\n[EXPLANATION]: x\n**[EXPLANATION]:** "Farm animals."\nDone.', "Farm animals"),
        ("[EXPLANATION]:\n\n  farm animals  ", "farm animals"),
        ("farm animals", NO_MARK),
        ("[EXPLANATION]:", EMPTY),
        ('[EXPLANATION]: ""', EMPTY),
        ("[EXPLANATION]: 12345 !?", NO_LETTERS),
        ("[EXPLANATION]: Names of small animals.", REPEATED),
        ("[EXPLANATION]: the phrase", REPEATED),
        ("[EXPLANATION]: what the marked tokens have in common in one short phrase", REPEATED),
        ("[EXPLANATION]: Example 1: a cow", REPEATED),
        ("[EXPLANATION]: слова о животных на ферме", OTHER_LANGUAGE),
        ("[EXPLANATION]: 农场动物的名字", OTHER_LANGUAGE),
        ("[EXPLANATION]: palabras que se refieren a los animales de una granja", OTHER_LANGUAGE),
        ("[EXPLANATION]: Wörter, die sich auf Tiere beziehen und nach der Mahlzeit stehen", OTHER_LANGUAGE),
    ],
)
def test_an_explanation_is_read_or_missing_with_a_reason(written, expected):
    assert read_explanation(Reply(written, True, ""), PROMPT) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("the tokens are all", UNFINISHED),
        ("[EXPLANATION]: farm animals that", UNFINISHED),
        ("[EXPLANATION]:", UNFINISHED),
        ("[EXPLANATION]: farm animals\nand so", "farm animals"),
    ],
)
def test_a_reply_that_was_cut_off_counts_only_if_the_explanation_was_complete(written, expected):
    assert read_explanation(Reply(written, False, ""), PROMPT) == expected


@pytest.mark.parametrize(
    ("written", "finished", "expected"),
    [
        (" animals", True, "animals"),
        (' "Farm animals."', True, "Farm animals"),
        ("Category: animals", True, "animals"),
        ("", True, EMPTY),
        (" animals that live on", False, UNFINISHED),
        (" 12345", True, NO_LETTERS),
        (" Words: dog", True, REPEATED),
        ("动物", True, OTHER_LANGUAGE),
    ],
)
def test_a_category_is_read_or_missing_with_a_reason(written, finished, expected):
    assert read_category(Reply(written, finished, "")) == expected


@pytest.mark.parametrize(
    "english",
    [
        "animals",
        "der, die, das",
        "Greek letters α, β, γ and δ used as symbols in formulas",
        'Spanish articles "el", "la", "los", "las" and una before nouns in novels',
        "names of places in France such as Le Havre, Les Halles, La Rochelle, Pont du Gard et al",
        "the last token of a long word",
    ],
)
def test_english_about_other_languages_is_english(english):
    assert not is_other_language(english)


def test_every_slot_gets_its_explanation_with_the_name_of_its_prompt(text):
    contexts = _contexts([*_many(0, 3), *[(5, 1, example) for _, _, example in _many(1, 2)]], [])
    chat = Writes("[EXPLANATION]: farm animals")
    explainer = ChatExplainer(_openai(name="big"), chat, contexts, text)
    found = explainer.explain([(1, 1), (1, 0), (0, 0)])
    written = [Explanation("farm animals", None, f"digest {i}", chat.text) for i in range(2)]
    assert found == [written[0], NO_EXAMPLES, written[1]]
    assert [conversation[-1].content.count("Example") for conversation in chat.asked] == [2, 3]
    assert isinstance(explainer, Explainer)
    assert explainer.name == "big"


def test_a_word_list_is_completed_up_to_the_end_of_the_line(text):
    contexts = _contexts([], [(3, 0, "dog", 2.0), (3, 0, "cat", 1.0), (3, 0, "cow", 0.9)])
    chat = Writes(" animals")
    model = LanguageModelConfig(name="tiny", source={"kind": "local", "path": "unused"})
    explainer = ChatExplainer(LocalExplainer(kind="local", model=model, n_words=2), chat, contexts, text)
    assert explainer.explain([(1, 0), (0, 0)]) == [NO_WORDS, Explanation("animals", None, "digest 0", " animals")]
    assert chat.asked[0][0].content.endswith("Words: dog, cat\nCategory:")
    assert chat.stops == ["\n"]


def test_a_prompt_longer_than_the_endpoint_takes_is_tried_with_fewer_examples(text, tmp_path):
    seen = []

    def answer(asked):
        n = asked.prompt.count("Example")
        seen.append(n)
        return refuse(400, "maximum context length is 99 tokens") if n > 3 else say(f"[EXPLANATION]: {n} animals")

    contexts = _contexts(_many(0, N) + _many(1, 2), [])
    with Server(answer) as server:
        settings = _openai(base_url=server.url, n_examples=10, max_failed=0.0, max_concurrency=1)
        chat = OpenAIChatModel(settings, ReplyStore(tmp_path))
        found = ChatExplainer(settings, chat, contexts, text).explain([(0, 0), (0, 1)])
        assert [each.text for each in found] == ["2 animals", "2 animals"]
        assert seen == [10, 2, 5]  # the two prompts with 2 examples are the same: the second comes from the store
        server.answer = lambda asked: refuse(413)
        other = _openai(base_url=server.url, n_examples=10, temperature=1.0)
        chat = OpenAIChatModel(other, ReplyStore(tmp_path))
        assert ChatExplainer(other, chat, contexts, text).explain([(0, 0)]) == [Missing(LONG_PROMPT)]


def test_a_reply_in_another_language_from_a_real_endpoint_is_missing(text, tmp_path):
    with Server(lambda asked: say("[EXPLANATION]: слова о животных")) as server:
        settings = _openai(base_url=server.url)
        chat = OpenAIChatModel(settings, ReplyStore(tmp_path))
        assert ChatExplainer(settings, chat, _contexts(_many(0, 3), []), text).explain([(0, 0)]) == [OTHER_LANGUAGE]


def test_an_endpoint_that_is_down_leaves_missing_explanations_with_the_reason(text, tmp_path):
    with Server(lambda asked: refuse(500)) as server:
        settings = _openai(base_url=server.url)
        chat = OpenAIChatModel(settings, ReplyStore(tmp_path))
        assert ChatExplainer(settings, chat, _contexts(_many(0, 3), []), text).explain([(0, 0)]) == [
            Missing("HTTP 500")
        ]
