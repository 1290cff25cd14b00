import numpy as np
import pytest

from sae_core.held_out_text import HeldOutText, halves
from sae_core.words import Segmenter
from tests.tiny_contexts import TEXT, byte_level, made_up_contexts, sentence_piece, write_split


def _held_out(folder, tokenizer, texts, length=64):
    """A context for each text, with a boundary before it and padding of boundaries behind it."""
    eos = tokenizer.eos_token_id
    token_ids = np.full((len(texts), length), eos, np.int32)
    documents = np.full((len(texts), length), -1, np.int32)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False)
        token_ids[row, 1 : 1 + len(ids)], documents[row, 1 : 1 + len(ids)] = ids, row
    contexts = write_split(folder, token_ids, documents)
    return HeldOutText(contexts, Segmenter(tokenizer, frozenset([eos])))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_contexts(tmp_path_factory.mktemp("world"), n_documents=40).text


def test_halves_go_by_document_and_are_about_equal():
    sides = halves(np.arange(10_000))
    assert abs(sides.mean() - 0.5) < 0.02
    assert halves(np.array([-1, 7, 7])).tolist() == [-1, sides[7], sides[7]]


def test_segments_are_what_a_loop_over_the_tokens_finds(text):
    documents, length = text.document_ids, text.context_length
    for token in range(len(text)):
        begin, end = token, token + 1
        while begin % length and documents[begin - 1] == documents[token]:
            begin -= 1
        while end % length and documents[end] == documents[token]:
            end += 1
        assert (text.segment_begin[token], text.segment_end[token]) == (begin, end)


def test_a_window_never_leaves_its_document_or_its_context(text):
    for token in range(len(text)):
        start, stop = text.window(token, 7, 4)
        assert token - 7 <= start <= token < stop <= token + 5
        assert len(set(text.document_ids[start:stop])) == 1
        assert start // text.context_length == (stop - 1) // text.context_length


def test_words_before_and_after_are_those_of_the_same_document(text):
    for token in range(len(text)):
        if text.word[token] < 0:
            assert text.word_before[token] == text.word_after[token] == -1
            continue
        first, stop = token, token + 1
        while not text.word_starts[first]:
            first -= 1
        while stop < len(text) and not text.word_starts[stop]:
            stop += 1
        assert text.word_before[token] == (text.word[first - 1] if first > text.segment_begin[token] else -1)
        assert text.word_after[token] == (text.word[stop] if stop < text.segment_end[token] else -1)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_pieces_together_are_the_text_of_the_corpus(make, tmp_path):
    held_out = _held_out(tmp_path, make(), [TEXT[:45], "the dog and the horse"])
    for row, whole in enumerate((TEXT[:45], "the dog and the horse")):
        first = row * held_out.context_length + 1
        stop = int(held_out.segment_end[first])
        assert held_out.text(first, stop).strip() == whole
        for middle in range(first, stop + 1):
            assert held_out.text(first, middle) + held_out.text(middle, stop) == held_out.text(first, stop)
            assert len(held_out.pieces(first, middle)) == middle - first


def test_a_character_of_several_tokens_is_whole_in_every_window_that_has_its_last_token(tmp_path):
    held_out = _held_out(tmp_path, byte_level(), ["déjà 犬 dog"])
    first, stop = 1, int(held_out.segment_end[1])
    assert held_out.text(first, stop) == "déjà 犬 dog"
    pieces = held_out.pieces(first, stop)
    assert "" in pieces
    assert "犬" in "".join(pieces)
    assert not any("\ufffd" in held_out.text(start, stop) for start in range(first, stop))


def test_a_broken_character_does_not_swallow_the_text_behind_it(tmp_path):
    tokenizer = byte_level()
    lone = tokenizer.encode("é", add_special_tokens=False)[1]
    dog = tokenizer.encode("dog", add_special_tokens=False)
    contexts = write_split(tmp_path, np.array([[lone, *dog, lone]], np.int32), np.zeros((1, len(dog) + 2), np.int32))
    held_out = HeldOutText(contexts, Segmenter(tokenizer, frozenset([tokenizer.eos_token_id])))
    assert held_out.text(0, len(held_out)) == "\ufffddog\ufffd"


def test_the_bytes_of_all_pieces_are_the_text(text):
    pieces, starts = text.utf8
    for start, stop in ((0, len(text)), (5, 9), (7, 7)):
        assert bytes(pieces[starts[start] : starts[stop]]).decode() == text.text(start, stop)


def test_runs_of_marked_tokens_stand_between_delimiters(tmp_path):
    held_out = _held_out(tmp_path, byte_level(), ["the dog and the dog"])
    stop = int(held_out.segment_end[1])
    pieces = held_out.pieces(1, stop)
    assert pieces == ["the", " dog", " and", " the", " dog"]
    marked = np.array([True, False, True, True, False])
    assert held_out.marked(1, stop, marked) == "<<the>> dog<< and the>> dog"
    assert held_out.marked(1, stop, ~marked, "[", "]") == "the[ dog] and the[ dog]"
    assert held_out.marked(1, stop, np.ones(5, bool)) == "<<the dog and the dog>>"
    assert held_out.marked(1, stop, np.zeros(5, bool)) == "the dog and the dog"
