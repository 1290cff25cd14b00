import numpy as np
import pytest

from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import CLAUSE_KINDS, Clause
from sae_core.explaining.rule_search import RuleSearch
from sae_core.explaining.rules import Rule
from sae_core.explaining.shapes import PARTS, POSITIONS, SHAPES
from sae_core.held_out_text import HeldOutText
from sae_core.words import Segmenter
from tests.tiny_contexts import TEXT, byte_level, sentence_piece, write_split

SHAPED = 'Then NASA saw 7 McDogs: "x" - A1 at 12345'


@pytest.fixture(params=[(byte_level, SHAPED), (sentence_piece, TEXT[::-1])])
def text(request, tmp_path):
    """Two documents in one context, then the end of the second in another."""
    make_tokenizer, other = request.param
    tokenizer = make_tokenizer()
    first, second = (tokenizer.encode(part, add_special_tokens=False) for part in (TEXT, other))
    eos = tokenizer.eos_token_id
    length = len(first) + len(second) // 2 + 2
    row = [(eos, -1)] + [(token, 0) for token in first] + [(eos, -1)] + [(token, 1) for token in second]
    row.insert(length, (eos, -1))
    row += [(eos, -1)] * (2 * length - len(row))
    rows = np.array(row, np.int32).reshape(2, length, 2)
    contexts = write_split(tmp_path, rows[..., 0], rows[..., 1])
    return HeldOutText(contexts, Segmenter(tokenizer, frozenset(tokenizer.all_special_ids)))


@pytest.fixture
def attributes(text):
    return TokenAttributes(text)


def clause(kind, value, weight=1.0):
    return Clause(kind, value, weight, 0.5, 0.5)


def values(attributes, kind, token):
    """The values of one kind that a token has."""
    numbers = attributes.columns[token]
    return [attributes.value(n) for n in numbers.tolist() if n >= 0 and attributes.kind(n) == kind]


def tokens_of(text, word):
    return [t for t in range(len(text)) if text.word[t] >= 0 and text.words.texts[text.word[t]].lower() == word]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("now", "dog", "dog"),
        ("pair", "of|the", '"the" after "of"'),
        ("before", "of", 'after "of"'),
        ("after", "the", 'before "the"'),
        ("prefix", "un", 'words beginning with "un-"'),
        ("suffix", "ing", 'words ending in "-ing"'),
        ("piece", "acle", '"acle" in longer words'),
        ("shape", "numbers", "numbers"),
        ("part", "last pieces of years", "last pieces of years"),
        ("position", "later pieces of words", "later pieces of words"),
    ],
)
def test_every_kind_of_clause_has_words_of_its_own(kind, value, text):
    assert clause(kind, value).text() == text
    assert kind in CLAUSE_KINDS


def test_a_rule_is_the_same_after_a_round_through_json():
    rule = Rule((Clause("now", 'naïve "dog"', 1 / 3, 0.25, 1.0), Clause("pair", "of|the", 2.0, 0.1, 0.2)))
    assert Rule.from_json(rule.to_json()) == rule
    assert "\n" not in rule.to_json()


def test_a_token_has_its_word_and_those_beside_it_in_the_same_document(text, attributes):
    first = [int(t) for t in np.flatnonzero(text.word_starts & (text.word >= 0))]
    for i, token in enumerate(first):
        inside = range(int(text.segment_begin[token]), int(text.segment_end[token]))
        names = [text.words.texts[text.word[t]] for t in first]
        before = names[i - 1] if i and first[i - 1] in inside else None
        after = names[i + 1] if i + 1 < len(first) and first[i + 1] in inside else None
        assert values(attributes, "before", token) == ([before] if before else [])
        assert values(attributes, "after", token) == ([after] if after else [])
        assert values(attributes, "pair", token) == ([f"{before}|{names[i]}"] if before else [])
        assert values(attributes, "now", token) == [names[i]]


def test_every_piece_of_a_word_has_the_attributes_of_the_word(text, attributes):
    token = tokens_of(text, "unhappily")
    assert len(token) > 1
    for t in token:
        assert values(attributes, "prefix", t) == ["un", "unh"]
        assert values(attributes, "suffix", t) == ["ly", "ily"]
        assert values(attributes, "before", t) == ["comma"]


def test_short_words_and_punctuation_have_no_prefix(text, attributes):
    for word in ("the", "comma", "1945"):
        assert values(attributes, "prefix", tokens_of(text, word)[0]) == []


@pytest.mark.parametrize("text", [(byte_level, SHAPED)], indirect=True)
@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("dog", None),
        ("1945", "years"),
        ("12345", "numbers"),
        ("7", "numbers"),
        ("in", "capitalised words"),
        ("nasa", "words in capitals"),
        ("mcdogs", "words in mixed case"),
        ("x", "single letters"),
        ("a1", "letters with digits"),
        ("full stop", "ends of sentences"),
        ("comma", "commas and colons"),
        ("left parenthesis", "brackets"),
        ("quotation mark", "quotation marks"),
        ("hyphen-minus", "dashes"),
    ],
)
def test_shapes(text, attributes, word, shape):
    for token in tokens_of(text, word):
        assert values(attributes, "shape", token) == ([shape] if shape else [])
    assert tokens_of(text, word)
    assert shape is None or shape in SHAPES


def test_pieces_and_parts_are_of_words_of_several_tokens(text, attributes):
    year, dog = tokens_of(text, "1945"), tokens_of(text, "the")[0]
    digits = [t for t in year if text.segmenter.decode([text.token_ids[t]]).strip()]
    assert [values(attributes, "piece", t) for t in digits] == [["1"], ["9"], ["4"], ["5"]]
    parts = ["first pieces of years", *["middle pieces of years"] * (len(year) - 2), "last pieces of years"]
    assert [values(attributes, "part", t) for t in year] == [[part] for part in parts]
    assert values(attributes, "piece", dog) == values(attributes, "part", dog) == []
    assert set(parts) <= set(PARTS)


def test_positions_are_the_first_word_of_a_document_and_the_later_pieces_of_words(text, attributes):
    for token in range(len(text)):
        begins = text.word[token] >= 0 and text.document_ids[token - 1] < 0
        expected = [POSITIONS[0]] if begins else [POSITIONS[1]] if not text.word_starts[token] else []
        assert values(attributes, "position", token) == expected


def test_special_tokens_have_no_attribute(text, attributes):
    assert (attributes.columns[text.half < 0] == -1).all()


def test_numbers_values_and_columns_belong_together(text, attributes):
    tokens = np.arange(len(text))
    counts = attributes.counts(tokens)
    for number in range(len(attributes)):
        kind, value = attributes.kind(number), attributes.value(number)
        assert attributes.number(kind, value.upper()) == number
        matching = attributes.matches(kind, value, tokens)
        np.testing.assert_array_equal(matching, (attributes.columns == number).any(axis=1))
        assert counts[number] == matching.sum()


def test_a_prediction_is_the_largest_weight_of_the_clauses_that_match(text, attributes):
    rule = Rule((clause("now", "dog", 3.0), clause("before", "the", 2.0), clause("suffix", "ess", 1.0)))
    tokens = np.arange(len(text))[::-1].copy()
    expected = [
        max(
            3.0 * ("dog" in values(attributes, "now", t)),
            2.0 * ("the" in values(attributes, "before", t)),
            1.0 * ("ess" in values(attributes, "suffix", t)),
        )
        for t in tokens.tolist()
    ]
    np.testing.assert_array_equal(rule.predict(attributes, tokens), np.array(expected, np.float32))
    assert set(expected) == {0.0, 1.0, 2.0, 3.0}


def test_a_value_that_the_text_lacks_matches_nothing(text, attributes):
    tokens = np.arange(len(text))
    assert not Rule((clause("now", "zebra"), clause("pair", "a|zebra"))).predict(attributes, tokens).any()


def by_hand(attributes, looked_at, codes, n_clauses):
    """The same greedy search with masks over all tokens."""
    matches = [(attributes.columns[looked_at] == number).any(axis=1) for number in range(len(attributes))]
    codes, covered, chosen, best_score = codes[looked_at], np.zeros(len(looked_at), bool), [], 0.0
    fires = codes > 0
    able = [
        number
        for number, mask in enumerate(matches)
        if (mask & fires).sum() >= 2 and (mask & fires).sum() / mask.sum() >= 2 * fires.mean()
    ]
    while len(chosen) < n_clauses:
        scores = {}
        for number in able:
            union = covered | matches[number]
            if (union & fires).sum() > (covered & fires).sum():
                precision = (union & fires).sum() / (union.sum() + len(chosen) + 1)
                recall = codes[union].sum() / codes.sum()
                scores[number] = 2 * precision * recall / (precision + recall)
        best = max(scores, key=lambda number: (round(scores[number], 12), -number), default=None)
        if best is None or scores[best] <= best_score + 1e-12:
            break
        chosen.append(best)
        best_score, covered = scores[best], covered | matches[best]
    return chosen, [matches[number] for number in chosen]


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_what_a_search_with_masks_finds(text, attributes, seed):
    rng = np.random.default_rng(seed)
    looked_at = np.flatnonzero((text.half >= 0) & (rng.random(len(text)) < 0.9))
    word = rng.choice(np.unique(text.word[looked_at]), 4)
    fires = np.isin(text.word, word) | (rng.random(len(text)) < 0.1)
    codes = np.where(fires, rng.integers(1, 9, len(text)), 0).astype(np.float32)
    tokens = looked_at[codes[looked_at] > 0]
    search = RuleSearch(attributes, looked_at)
    rule = search.find(tokens, codes[tokens], n_clauses=5)
    chosen, masks = by_hand(attributes, looked_at, codes, n_clauses=5)
    found = () if rule is None else rule.clauses
    assert [(c.kind, c.value) for c in found] == [(attributes.kind(n), attributes.value(n)) for n in chosen]
    for each, mask in zip(found, masks, strict=True):
        here = codes[looked_at][mask]
        assert each.weight == pytest.approx(here.mean())
        assert each.precision == pytest.approx((here > 0).mean())
        assert each.recall == pytest.approx(here.sum() / codes[tokens].sum())
    assert search.find(tokens, codes[tokens], n_clauses=5) == rule, "a search leaves nothing behind"


def test_a_feature_that_never_fires_or_always_does_has_no_rule(text, attributes):
    looked_at = np.flatnonzero(text.half >= 0)
    search = RuleSearch(attributes, looked_at)
    assert search.find(looked_at[:0], np.zeros(0, np.float32), 8) is None
    assert search.find(looked_at, np.ones(len(looked_at), np.float32), 8) is None
