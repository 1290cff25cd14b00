import numpy as np
import pytest

from sae_core.words import Segmenter, name_word, read_words
from tests.tiny_contexts import TEXT, byte_level, sentence_piece


def _row(tokenizer, text):
    return np.array([tokenizer.encode(text, add_special_tokens=False)], dtype=np.int32)


def _words(tokenizer, text):
    row = _row(tokenizer, text)
    words = read_words(row, Segmenter(tokenizer, frozenset(tokenizer.all_special_ids)))
    return words, [words.texts[word] for word in words.find(row)[0]]


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_every_token_knows_the_whole_word_it_is_a_piece_of(make):
    tokenizer = make()
    _, found = _words(tokenizer, TEXT)
    distinct = [word for i, word in enumerate(found) if i == 0 or word != found[i - 1]]
    assert " ".join(distinct) == (
        "the dog and the horse saw the dogs comma unhappily full stop In 1945 the horse ran left parenthesis far "
        "right parenthesis from unhappiness and the doghouse"
    )
    assert len(found) > len(distinct)  # the tokenizer does split words


def test_upper_and_lower_case_are_one_word_shown_as_it_is_spelt_most():
    words, found = _words(byte_level(), "dog Dog the dog DOG the dog")
    assert sorted(words.texts) == ["dog", "the"]
    assert set(found) == {"dog", "the"}


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_counts_are_the_tokens_of_the_corpus(make):
    words, found = _words(make(), TEXT)
    assert words.counts.sum() == len(found)
    assert words.counts[words.texts.index("horse")] == found.count("horse")


def test_a_boundary_token_is_no_word_and_ends_the_one_before():
    tokenizer = byte_level()
    eos, un = tokenizer.eos_token_id, _row(tokenizer, "un")[0].tolist()
    row = np.array([[eos, *un, eos, *un, eos]], dtype=np.int32)
    words = read_words(row, Segmenter(tokenizer, frozenset([eos])))
    assert words.texts == ["un"]
    assert (words.find(row)[0] == -1).tolist() == [token == eos for token in row[0]]


def test_a_character_of_several_tokens_stays_in_its_word():
    _, found = _words(byte_level(), "the déjà dog")
    assert set(found) == {"the", "déjà", "dog"}


def test_a_text_without_spaces_is_cut_into_words_of_sixteen_tokens():
    tokenizer = byte_level()
    row = np.repeat(_row(tokenizer, "x"), 40, axis=1)
    starts = Segmenter(tokenizer, frozenset()).starts(row)[0]
    assert np.flatnonzero(starts).tolist() == [0, 16, 32]


def test_punctuation_goes_by_its_name():
    assert [name_word(text) for text in (",", " (", "'s", " Paris", "\n", " ", '."')] == [
        "comma", "left parenthesis", "'s", "Paris", "line break", "space", "full stop quotation mark"
    ]  # fmt: skip


def test_tokens_that_are_whole_words_are_told_from_pieces():
    tokenizer = byte_level()
    ids = np.array([*_row(tokenizer, " the")[0], *_row(tokenizer, "xyz")[0], *_row(tokenizer, ",")[0]])
    assert Segmenter(tokenizer, frozenset()).whole_words(ids).tolist() == [True, False, False, False, False]


def test_rows_of_another_corpus_are_refused():
    tokenizer = byte_level()
    words, _ = _words(tokenizer, "the dog")
    with pytest.raises(ValueError, match="not among those of this corpus"):
        words.find(_row(tokenizer, "the horse"))


def test_no_context_is_refused():
    with pytest.raises(ValueError, match="expected at least one context, got none"):
        read_words(np.zeros((0, 4), dtype=np.int32), Segmenter(byte_level(), frozenset()))
