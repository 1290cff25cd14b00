import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_core.config import ExplanationsConfig
from sae_core.explanations import SCHEMA, draw_features, explain_run
from sae_core.feature_contexts import FeatureContexts, halves
from sae_core.feature_words import marked_contexts, promoted_words, telling_words
from sae_core.language_models import LanguageModel
from sae_core.store import digest_file
from sae_core.words import Segmenter, Words, read_words
from tests.tiny import WORDS, make_model
from tests.tiny_contexts import byte_level, identity_sae, write_codes, write_split

D = 32
RARE, COMMON, DEAD = 5, 6, 7


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model"), d_model=D)
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), "tiny")


@pytest.fixture(scope="module")
def world(tmp_path_factory, model):
    """Feature i < 5 fires on the word i; one fires once, one on every token, the others never."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    token_ids = rng.integers(2, 12, size=(40, 24)).astype(np.int32)
    documents = np.repeat(np.arange(80).reshape(40, 2), 12, axis=1).astype(np.int32)
    token_ids[:, [0, 12]], documents[:, [0, 12]] = 0, -1
    codes = np.zeros((40, 24, D))
    for feature in range(5):
        codes[..., feature] = (token_ids == feature + 2) * rng.uniform(1, 2, size=token_ids.shape)
    codes[3, 4, RARE] = 1
    codes[..., COMMON] = 1
    contexts = write_split(folder / "contexts", token_ids, documents)
    return write_codes(folder / "shards", codes, contexts), contexts


def _run(folder, world, model, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    summary = explain_run(folder, identity_sae(D), *world, model, ExplanationsConfig(**fields))
    return summary, pq.read_table(folder / "explanations.parquet")


def test_a_feature_of_one_word_is_explained_by_that_word_in_both_halves(tmp_path, world, model):
    _, table = _run(tmp_path, world, model)
    for row in table.to_pylist():
        if row["feature"] < 5:
            assert row["explanation"] == WORDS[row["feature"]]
            assert all(f"«{WORDS[row['feature']]}»" in text for text in row["examples"])
            assert len(row["examples"]) == 3


def test_the_table_and_the_summary_say_what_is_missing_and_why(tmp_path, world, model):
    summary, table = _run(tmp_path, world, model)
    assert table.schema.equals(SCHEMA)
    assert sorted(set(table["feature"].to_pylist())) == [0, 1, 2, 3, 4, RARE, COMMON]
    rare = [row for row in table.to_pylist() if row["feature"] == RARE]
    assert [row["explanation"] for row in rare] == [None, None]
    assert {row["missing_reason"] for row in rare} == {"fired too rarely"}
    assert summary["missing"]["fired too rarely"] == 2
    assert summary["n_explanations"] + summary["n_missing"] == 2 * summary["n_features"] == table.num_rows
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explanations.parquet", "summary.json"]


def test_frequency_is_the_share_of_held_out_tokens(tmp_path, world, model):
    summary, table = _run(tmp_path, world, model)
    rows = {row["feature"]: row for row in table.to_pylist()}
    assert rows[COMMON]["frequency"] == 1
    assert rows[RARE]["frequency"] == pytest.approx(1 / summary["n_tokens"])


def test_the_same_run_gives_the_same_bytes(tmp_path, world, model):
    first, second = tmp_path / "1", tmp_path / "2"
    _run(first, world, model)
    _run(second, world, model)
    assert digest_file(first / "explanations.parquet") == digest_file(second / "explanations.parquet")


def test_a_sample_of_features_is_drawn_from_those_alive(tmp_path, world, model):
    summary, table = _run(tmp_path, world, model, n_features=3)
    assert summary["n_features"] == len(set(table["feature"].to_pylist())) == 3
    assert summary["n_alive"] == 7


def test_a_drawn_sample_depends_on_its_seed_alone():
    alive = np.arange(0, 200, 2)
    first, again, other = (draw_features(alive, ExplanationsConfig(n_features=20, seed=s)) for s in (0, 0, 1))
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()) & set(alive.tolist()))
    assert first.tolist() != other.tolist()
    assert draw_features(alive, ExplanationsConfig(n_features=500)).tolist() == alive.tolist()


def _evidence(weights):
    empty = np.zeros((1, 2, 0))
    matrix = sparse.csr_array(np.array([weights, [0] * len(weights)], dtype=float))
    n = np.zeros((1, 2), dtype=np.int64)
    return FeatureContexts(np.array([0]), n, n[0], empty.astype(int), empty.astype(int), empty, matrix)


def test_a_words_score_is_its_part_of_the_divergence_from_the_corpus():
    counts = np.array([96, 46, 6, 2])  # with one more each: 97, 47, 7, 3 of 154
    words = Words(["the", "of", "dog", "cat"], counts, Segmenter(byte_level(), frozenset()), np.zeros(0), np.zeros(0))
    evidence = _evidence([6, 1, 3, 0])
    scores = {
        "the": 0.6 * np.log(0.6 / (97 / 154)),  # negative: expected more often
        "of": 0.1 * np.log(0.1 / (47 / 154)),
        "dog": 0.3 * np.log(0.3 / (7 / 154)),
    }
    assert [word for word, score in scores.items() if score > 0] == ["dog"]
    assert telling_words(evidence, words, 0, 0, 8) == ["dog"]
    assert telling_words(_evidence([6, 0, 2, 2]), words, 0, 0, 8) == ["cat", "dog"]
    assert telling_words(_evidence([6, 0, 2, 2]), words, 0, 0, 1) == ["cat"]
    assert telling_words(_evidence([0, 0, 1, 9]), words, 0, 0, 8, min_score=0.1) == ["cat"]
    assert telling_words(evidence, words, 0, 1, 8) == []


def test_the_marked_word_is_whole_and_its_context_ends_with_its_document(tmp_path):
    tokenizer = byte_level()
    pieces = [tokenizer.encode(text) for text in ("the dog saw", "the horse unhappily ran from the dog", "the end")]
    eos = tokenizer.eos_token_id
    row, documents = [], []
    for number, piece in enumerate(pieces):
        row += [eos, *piece]
        documents += [-1, *[number] * len(piece)]
    contexts = write_split(tmp_path, np.array([row], dtype=np.int32), np.array([documents], dtype=np.int32))
    segmenter = Segmenter(tokenizer, frozenset([eos]))
    words = read_words(contexts.token_ids, segmenter)
    at = [
        i
        for i, word in enumerate(words.find(contexts.token_ids)[0])
        if words.texts[word] == "unhappily" and row[i] != eos
    ]
    assert len(at) > 1
    for position in at:
        found = np.full((1, 2, 1), position)
        evidence = FeatureContexts(
            np.array([0]),
            found[:, :, 0],
            found[0, :, 0],
            0 * found,
            found,
            found.astype(float),
            sparse.csr_array((2, 1)),
        )
        wide, narrow = (
            marked_contexts(evidence, contexts, segmenter, 0, 0, ExplanationsConfig(window=window))
            for window in (50, 2)
        )
        assert wide == ["the horse «unhappily» ran from the dog"]
        assert "«unhappily»" in narrow[0]
        assert len(narrow[0]) < len(wide[0])


def test_a_feature_along_a_words_unembedding_promotes_that_word(model):
    sae = identity_sae(D)
    directions = model.logit_directions()
    with torch.no_grad():
        sae.W_dec[0] = directions[:, 9] - directions.mean(1)
    segmenter = Segmenter(model.tokenizer, model.special_token_ids)
    logits = (sae.W_dec[:1] @ directions)[0]
    best = [WORDS[i - 2] for i in logits.argsort(descending=True).tolist() if i >= 2]
    assert promoted_words(sae, model, segmenter, np.array([0]), 4) == [best[:4]]
    assert best[0] == WORDS[7]


def test_an_sae_beside_the_residual_stream_promotes_nothing(model):
    segmenter = Segmenter(model.tokenizer, model.special_token_ids)
    assert promoted_words(identity_sae(D - 1), model, segmenter, np.array([0, 1]), 4) == [[], []]


def test_explanations_of_the_two_halves_come_from_different_documents(world):
    _, contexts = world
    assert set(halves(contexts.document_ids).ravel()) == {-1, 0, 1}
