import json
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_core.architectures import build
from sae_core.config import ContextsConfig, TopKConfig
from sae_core.feature_contexts import ACTIVATING, NON_ACTIVATING, codes, collect_contexts, read_contexts
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, FEATURE_SCHEMA, WORD_SCHEMA
from sae_core.feature_contexts.example_kernels import choose_peaks
from sae_core.feature_contexts.places import Pool, TextWindows, draw_keys
from sae_core.feature_contexts.promoted import promoted_words
from sae_core.held_out_text import HeldOutText
from sae_core.language_models import LanguageModel
from sae_core.store import digest_file
from sae_core.words import Segmenter
from tests.tiny import WORDS, make_model
from tests.tiny_contexts import PLANTED, byte_level, identity_sae, made_up_contexts, write_codes, write_split

N_FEATURES, LENGTH = 6, 24
CONFIG = ContextsConfig(
    before=4, after=2, n_strongest=2, n_quantiles=3, n_per_quantile=2, n_negatives=3, n_words=5, n_pool=60, seed=3
)


class World:
    """Random text in documents of unequal length, and random sparse codes with ties; one feature is dead."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        tokenizer = byte_level()
        eos = tokenizer.eos_token_id
        token_ids = rng.integers(270, 300, size=(23, LENGTH)).astype(np.int32)
        documents = np.repeat(np.arange(69).reshape(23, 3), [11, 5, 8], axis=1).astype(np.int32)
        token_ids[:, [0, 11, 16]], documents[:, [0, 11, 16]] = eos, -1
        contexts = write_split(folder / "contexts", token_ids, documents)
        self.text = HeldOutText(contexts, Segmenter(tokenizer, frozenset([eos])))
        dense = rng.integers(1, 9, size=(23, LENGTH, N_FEATURES)) / 8
        self.codes = dense * (rng.random(dense.shape) < [0.02, 0.05, 0.1, 0.2, 0.4, 0.0])
        self.shards = write_codes(folder / "shards", self.codes, contexts)
        self.codes = self.codes.reshape(-1, N_FEATURES)
        self.codes[self.text.half < 0] = 0
        self.sae, self.folder = identity_sae(N_FEATURES), folder / "collected"
        self.folder.mkdir()
        self.summary = collect_contexts(self.folder, self.sae, self.shards, self.text, None, CONFIG)
        self.contexts = read_contexts(self.folder)
        self.slots = [(place, half) for place in range(len(self.contexts.features)) for half in (0, 1)]

    def peaks(self, place, half):
        """Tokens of the largest activation of their window (the first of equals), the strongest first."""
        values = self.codes[:, self.contexts.features[place]]
        found = []
        for token in np.flatnonzero((values > 0) & (self.text.half == half)):
            start, stop = self.text.window(int(token), CONFIG.before, CONFIG.after)
            if values[start:token].max(initial=0) < values[token] >= values[token:stop].max():
                found.append((-values[token], int(token)))
        return [token for _, token in sorted(found)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def _collect(folder, world, config=CONFIG, progress=lambda *_: None, sae=None, text=None):
    folder.mkdir(parents=True, exist_ok=True)
    return collect_contexts(folder, sae or world.sae, world.shards, text or world.text, None, config, progress)


def _files(folder):
    return {path.name: digest_file(path) for path in folder.iterdir()}


def _about(examples, kind):
    return [each.start + each.peak for each in examples if each.kind == kind]


# --- codes and features -----------------------------------------------------------------------------------------


def test_codes_are_those_of_the_sae_on_all_tokens_of_documents(world):
    found = np.zeros_like(world.codes)
    for place, feature in enumerate(world.contexts.features):
        tokens, activations = world.contexts.codes(place)
        assert (np.diff(tokens) > 0).all()
        found[tokens, feature] = activations
    np.testing.assert_array_equal(found, world.codes.astype(np.float32))


def test_tokens_looked_at_are_those_of_documents_after_position_zero(world):
    position = np.arange(len(world.text)) % LENGTH
    np.testing.assert_array_equal(
        world.contexts.looked_at, np.flatnonzero((world.text.document_ids >= 0) & (position > 0))
    )
    assert world.contexts.n_tokens.tolist() == np.bincount(world.text.half[world.contexts.looked_at]).tolist()


def test_a_dead_feature_has_no_row(world):
    assert world.contexts.features.tolist() == [0, 1, 2, 3, 4]
    assert world.summary["n_features"] == 5
    assert world.summary["d_sae"] == N_FEATURES


def test_numbers_of_a_feature_are_those_of_its_codes(world):
    for row in pq.read_table(world.folder / "features.parquet").to_pylist():
        values = world.codes[world.text.half == row["half"], row["feature"]]
        assert row["n_activations"] == (values > 0).sum()
        assert row["frequency"] == pytest.approx((values > 0).mean())
        assert row["max_activation"] == values.max()
        assert row["mean_activation"] == pytest.approx(values[values > 0].mean())


def test_tables_have_the_schemas_that_others_read(world):
    for name, schema in (("features", FEATURE_SCHEMA), ("examples", EXAMPLE_SCHEMA), ("words", WORD_SCHEMA)):
        assert pq.read_schema(world.folder / f"{name}.parquet").equals(schema)
    assert json.loads((world.folder / "summary.json").read_text()) == world.summary


# --- examples ---------------------------------------------------------------------------------------------------


def test_strongest_examples_are_the_largest_peaks_one_of_a_document_in_a_context(world):
    for place, half in world.slots:
        expected, segments = [], set()
        for token in world.peaks(place, half):
            if len(expected) < CONFIG.n_strongest and world.text.segment_begin[token] not in segments:
                expected.append(token)
                segments.add(world.text.segment_begin[token])
        assert _about(world.contexts.examples(place, half), "strongest") == expected


def test_quantile_examples_are_drawn_from_equal_parts_of_the_other_peaks(world):
    for place, half in world.slots:
        examples = world.contexts.examples(place, half)
        others = [token for token in world.peaks(place, half) if token not in _about(examples, "strongest")]
        bounds = [len(others) * q // CONFIG.n_quantiles for q in range(CONFIG.n_quantiles + 1)]
        for q in range(CONFIG.n_quantiles):
            part = others[bounds[q] : bounds[q + 1]]
            drawn = _about([each for each in examples if each.quantile == q], "quantile")
            assert len(drawn) == min(CONFIG.n_per_quantile, len(part))
            assert [token for token in part if token in drawn] == drawn


def test_draws_from_a_quantile_are_even():
    n_slots, n_peaks = 4000, 13
    start = np.arange(n_slots + 1) * n_peaks
    keys = draw_keys(0, "quantile", np.arange(n_slots // 2)).reshape(-1)
    chosen = np.full((n_slots, 1 + 2 * 3), -1)
    choose_peaks(start, np.arange(start[-1]), keys, 1, 2, 3, chosen)
    ranks = chosen - start[:-1, None]
    assert (ranks[:, 0] == 0).all()
    counts = np.bincount(ranks[:, 1:].ravel(), minlength=n_peaks)[1:]
    assert counts.sum() == n_slots * 6
    assert np.abs(counts - n_slots / 2).max() < 5 * np.sqrt(n_slots / 4)  # each of six with probability 3 / 6


def test_examples_without_activation_have_none_anywhere_in_them(world):
    n = 0
    for place, half in world.slots:
        values = world.codes[:, world.contexts.features[place]]
        for example in world.contexts.examples(place, half):
            inside = values[example.start : example.stop]
            assert example.activating == (example.kind in ACTIVATING) == bool(inside.any())
            np.testing.assert_array_equal(example.activations, inside.astype(np.float32))
            n += example.kind in NON_ACTIVATING
    assert n > 30


def test_an_example_is_the_window_about_its_token_in_its_half(world):
    for place, half in world.slots:
        examples = world.contexts.examples(place, half)
        assert examples
        for example in examples:
            window = world.text.window(example.start + example.peak, CONFIG.before, CONFIG.after)
            assert (example.start, example.stop) == window
            assert (world.text.half[example.start : example.stop] == half).all()


def test_same_token_examples_are_about_tokens_that_the_feature_fires_on(world):
    for place, half in world.slots:
        tokens, _ = world.contexts.codes(place)
        ids = set(world.text.token_ids[tokens[world.text.half[tokens] == half]].tolist())
        about = _about(world.contexts.examples(place, half), "same_token")
        assert {int(world.text.token_ids[token]) for token in about} <= ids
    assert world.summary["n_examples"]["same_token"] > 10


def test_near_examples_are_the_silent_places_of_the_pool_nearest_to_where_it_fires(world):
    windows = TextWindows(world.text, CONFIG.before, CONFIG.after)
    pool = Pool(windows, len(world.text), CONFIG, N_FEATURES)
    spans = [world.text.window(int(token), CONFIG.before, CONFIG.after) for token in pool.token]
    read = np.isin(np.arange(len(world.text)), world.contexts.looked_at)
    means = np.array([world.codes[a:b][read[a:b]].mean(axis=0) for a, b in spans])
    means -= means.mean(axis=0)
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    for place, half in world.slots:
        largest = np.array([world.codes[a:b, world.contexts.features[place]].max() for a, b in spans])
        here = world.text.half[pool.token] == half
        nearness = directions @ (largest * here @ directions)
        examples = world.contexts.examples(place, half)
        free = here & (largest == 0) & ~np.isin(pool.token, _about(examples, "random"))
        free &= (largest * here).any()
        best = [i for i in np.argsort(-nearness) if free[i]][: CONFIG.n_negatives]
        assert _about(examples, "near") == pool.token[best].tolist()


def test_windows_of_the_pool_do_not_overlap(world):
    pool = Pool(TextWindows(world.text, 4, 2), len(world.text), CONFIG, N_FEATURES)
    tokens = np.sort(pool.token)
    assert len(tokens) == CONFIG.n_pool
    assert (np.diff(tokens) > 6).all()
    other = Pool(TextWindows(world.text, 4, 2), len(world.text), CONFIG.model_copy(update={"seed": 4}), N_FEATURES)
    assert set(other.token) != set(pool.token)


def test_rows_are_in_the_order_of_feature_half_kind_and_strength(world):
    table = world.contexts.example_table.to_pylist()
    kinds = (*ACTIVATING, *NON_ACTIVATING)
    keys = [(row["feature"], row["half"], kinds.index(row["kind"]), -row["activation"]) for row in table]
    assert keys == sorted(keys)
    assert all((row["activations"] is None) == (row["kind"] in NON_ACTIVATING) for row in table)


def test_the_text_marks_tokens_above_three_tenths_of_the_largest_activation_of_the_half(world):
    for row in world.contexts.example_table.to_pylist():
        start, stop = row["start"], row["start"] + row["length"]
        values = world.codes[:, row["feature"]].astype(np.float32)
        largest = values[world.text.half == row["half"]].max()
        assert row["text"] == world.text.marked(start, stop, values[start:stop] > np.float32(0.3) * largest)


def test_a_feature_that_fires_everywhere_has_no_silent_example_and_is_counted(tmp_path):
    made = made_up_contexts(tmp_path, n_documents=30)
    place = made.place("everywhere")
    assert {each.kind for half in (0, 1) for each in made.contexts.examples(place, half)} <= set(ACTIVATING)
    assert json.loads((tmp_path / "collected" / "summary.json").read_text())["n_features_without_negatives"] == 1


def test_a_feature_has_no_example_in_a_half_in_which_it_never_fires(tmp_path, world):
    codes = np.zeros((23, LENGTH, N_FEATURES))
    token = int(np.flatnonzero(world.text.half == 1)[3])
    codes.reshape(-1, N_FEATURES)[token, 2] = 1.5
    shards = write_codes(tmp_path / "shards", codes, world.text.contexts)
    collect_contexts(tmp_path, world.sae, shards, world.text, None, CONFIG)
    found = read_contexts(tmp_path)
    assert found.features.tolist() == [2]
    assert found.n_fired.tolist() == [[0, 1]]
    assert found.examples(0, 0) == []
    assert _about(found.examples(0, 1), "strongest") == [token]
    assert found.words(0, 0, "now") == []


def test_an_sae_that_never_fires_has_empty_tables(tmp_path, world):
    shards = write_codes(tmp_path / "shards", np.zeros((23, LENGTH, N_FEATURES)), world.text.contexts)
    summary = collect_contexts(tmp_path, world.sae, shards, world.text, None, CONFIG)
    assert summary["n_features"] == summary["n_codes"] == 0
    found = read_contexts(tmp_path)
    assert len(found.features) == len(found.example_table) == len(found.word_table) == 0


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["now", "before", "after"])
def test_words_have_the_largest_parts_of_the_divergence_from_the_corpus(world, where):
    text, read = world.text, world.contexts.looked_at
    word = {"now": text.word, "before": text.word_before, "after": text.word_after}[where]
    counts = np.bincount(word[read][word[read] >= 0], minlength=len(text.words))
    expected = (counts + 1) / (len(read) + len(counts))
    for place, half in world.slots:
        squares = world.codes[:, world.contexts.features[place]] ** 2 * (text.half == half)
        share = np.array([squares[word == w].sum() for w in range(len(counts))]) / squares.sum()
        score = np.full(len(share), -np.inf)
        score[share > 0] = share[share > 0] * np.log(share[share > 0] / expected[share > 0])
        best = [w for w in np.lexsort((np.arange(len(score)), -score)) if share[w] > 0][: CONFIG.n_words]
        found = world.contexts.words(place, half, where)
        assert [each.score for each in found] == pytest.approx(score[best].tolist(), rel=1e-5)
        shares = {text.words.texts[w]: share[w] for w in np.flatnonzero(share)}
        assert all(each.share == pytest.approx(shares[each.word], rel=1e-5) for each in found)


def test_planted_words_come_first(tmp_path):
    made = made_up_contexts(tmp_path)
    for half in (0, 1):
        assert made.contexts.words(made.place("dog"), half, "now")[0].word == "dog"
        assert made.contexts.words(made.place("dog"), half, "now")[0].share == 1
        assert made.contexts.words(made.place("after of"), half, "before")[0].word == "of"
        assert all(each.word.isdigit() for each in made.contexts.words(made.place("number"), half, "now"))
    assert PLANTED.index("dead") not in made.contexts.features


# --- the pass ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_groups(monkeypatch, tmp_path, world):
    """Seven tokens are encoded at a time; and the files that come out then, all codes in memory at once."""
    monkeypatch.setattr(codes, "_DENSE_CODES", 7 * N_FEATURES)
    _collect(tmp_path / "whole", world)
    return _files(tmp_path / "whole")


def test_how_many_codes_make_a_file_changes_no_byte(small_groups, tmp_path, world, monkeypatch):
    monkeypatch.setattr(codes, "_FILE_CODES", 20)
    _collect(tmp_path / "small", world)
    assert _files(tmp_path / "small") == small_groups


def test_a_killed_pass_goes_on_where_it_stopped_and_ends_the_same(small_groups, tmp_path, world, monkeypatch):
    monkeypatch.setattr(codes, "_FILE_CODES", 20)
    encoded = []
    encode = codes.encode
    monkeypatch.setattr(
        "sae_core.feature_contexts.encoding_pass.encode", lambda *given: (encoded.append(1), encode(*given))[1]
    )

    def kill_at(n):
        def progress(done, total, text):
            if done >= n:
                raise KeyboardInterrupt

        return progress

    for n in (100, 200, 300):
        with pytest.raises(KeyboardInterrupt):
            _collect(tmp_path / "killed", world, progress=kill_at(n))
    n_before = len(encoded)
    _collect(tmp_path / "killed", world)
    assert _files(tmp_path / "killed") == small_groups
    n_groups = sum(-(-entry.n_tokens // 7) for entry in world.shards.index.shards)
    assert len(encoded) - n_before < n_groups - 30  # what was in files was not computed again


def test_a_pass_killed_while_it_writes_tables_ends_the_same(tmp_path, world):
    def kill(done, total, text):
        if "examples" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _collect(tmp_path / "killed", world, progress=kill)
    assert not (tmp_path / "killed" / "codes.parquet").exists()
    _collect(tmp_path / "killed", world)
    assert {name for name in _files(tmp_path / "killed") if name.endswith(".part")} == set()
    assert _files(tmp_path / "killed") == _files(world.folder)


def test_what_another_sae_left_behind_is_not_used(tmp_path, world):
    def kill(done, total, text):
        if "examples" in text:
            raise KeyboardInterrupt

    other = identity_sae(N_FEATURES)
    with torch.no_grad():
        other.W_enc.mul_(2)
    with pytest.raises(KeyboardInterrupt):
        _collect(tmp_path / "mixed", world, sae=other, progress=kill)
    _collect(tmp_path / "mixed", world)
    assert _files(tmp_path / "mixed") == _files(world.folder)


def test_memory_holds_a_part_of_the_active_codes(tmp_path, monkeypatch):
    n_contexts, length, n_features = 300, 32, 128
    for limit in ("_DENSE_CODES", "_FILE_CODES", "_RANGE_CODES"):
        monkeypatch.setattr(codes, limit, 1 << 16)
    token_ids = np.random.default_rng(0).integers(270, 300, size=(n_contexts, length)).astype(np.int32)
    documents = np.repeat(np.arange(n_contexts, dtype=np.int32)[:, None], length, axis=1)
    contexts = write_split(tmp_path / "contexts", token_ids, documents)
    text = HeldOutText(contexts, Segmenter(byte_level(), frozenset()))
    shards = write_codes(tmp_path / "shards", np.ones((n_contexts, length, n_features)), contexts, shard_contexts=50)
    summary = collect_contexts(tmp_path, identity_sae(n_features), shards, text, None, CONFIG)  # what is kept of a text
    tracemalloc.start()
    collect_contexts(tmp_path, identity_sae(n_features), shards, text, None, CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary["n_codes"] == n_features * n_contexts * (length - 1)
    assert peak < 4 * summary["n_codes"]  # 12 bytes each if all were held


def test_ranges_of_features_change_no_row(tmp_path, world, monkeypatch):
    monkeypatch.setattr(codes, "_RANGE_CODES", 30)
    _collect(tmp_path / "ranges", world)
    for name in ("codes", "examples", "words", "features"):
        path = tmp_path / "ranges" / f"{name}.parquet"
        assert pq.read_table(path).equals(pq.read_table(world.folder / path.name))
    assert pq.read_metadata(tmp_path / "ranges" / "codes.parquet").num_row_groups > 1


def test_a_trained_architecture_gives_its_own_codes(tmp_path, world):
    sae = build(TopKConfig(d_sae=16, k=2), N_FEATURES, seed=1)
    _collect(tmp_path, world, sae=sae)
    found, rows = read_contexts(tmp_path), world.shards.read(0)
    with torch.no_grad():
        expected = sae.encode(rows.activations).numpy()
    tokens = rows.context_ids * LENGTH + rows.positions
    for place, feature in enumerate(found.features):
        at, values = found.codes(place)
        inside = at <= tokens[-1]
        dense = np.zeros(len(world.text), np.float32)
        dense[at[inside]] = values[inside]
        np.testing.assert_allclose(dense[tokens], expected[:, feature], rtol=1e-5)


def test_n_tokens_is_kept_by_whole_contexts_in_stored_order(tmp_path, world):
    rows = LENGTH - 3  # of a context
    for n_tokens, n_contexts in ((5, 1), (2 * rows, 2), (5 * rows - 1, 4), (23 * rows, 23)):
        folder = tmp_path / str(n_tokens)
        _collect(folder, world, CONFIG.model_copy(update={"n_tokens": n_tokens}))
        found = read_contexts(folder)
        assert len(found.looked_at) == n_contexts * rows
        assert found.looked_at.max() < n_contexts * LENGTH
        starts = found.example_table["start"].to_numpy()
        assert starts.max(initial=0) < n_contexts * LENGTH


# --- refusals ---------------------------------------------------------------------------------------------------


def test_activations_of_another_width_are_refused(tmp_path, world):
    with pytest.raises(ValueError, match="width 6, the SAE reads width 4"):
        _collect(tmp_path, world, sae=identity_sae(4))


def test_contexts_that_the_activations_were_not_read_from_are_refused(tmp_path, world):
    contexts = world.text.contexts
    other = write_split(tmp_path / "other", contexts.token_ids[::-1], contexts.document_ids[::-1])
    with pytest.raises(ValueError, match="not read from these contexts"):
        _collect(tmp_path, world, text=HeldOutText(other, world.text.segmenter))
    fewer = write_split(tmp_path / "fewer", contexts.token_ids[:4], contexts.document_ids[:4])
    with pytest.raises(ValueError, match="not read from these contexts"):
        _collect(tmp_path, world, text=HeldOutText(fewer, world.text.segmenter))


def test_activations_out_of_order_are_refused(tmp_path, world):
    from sae_core.shards import ShardData, write_shards

    rows = world.shards.read(0)
    back = torch.arange(len(rows.positions) - 1, -1, -1)
    turned = ShardData(
        rows.activations[back], *(ids[::-1].copy() for ids in (rows.token_ids, rows.context_ids, rows.positions))
    )
    with pytest.raises(ValueError, match="not in the order of the held-out text"):
        collect_contexts(tmp_path, world.sae, write_shards(tmp_path / "turned", [turned]), world.text, None, CONFIG)


def test_a_corpus_too_small_for_halves_is_refused(tmp_path, world):
    contexts = world.text.contexts
    one = np.where(contexts.document_ids < 0, -1, 0).astype(np.int32)
    text = HeldOutText(write_split(tmp_path / "one", contexts.token_ids, one), world.text.segmenter)
    with pytest.raises(
        ValueError, match=r"too small for halves: .* got [01] in the first and [01] in the second; read"
    ):
        _collect(tmp_path, world, text=text)


def test_a_folder_without_contexts_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature contexts in .*; materialize"):
        read_contexts(tmp_path)


# --- the logit lens ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model"))
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), "tiny")


def test_a_feature_along_a_words_unembedding_promotes_that_word(model):
    sae = identity_sae(model.d_model)
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
    assert promoted_words(identity_sae(model.d_model - 1), model, segmenter, np.array([0, 1]), 4) == [[], []]


def test_promoted_words_are_kept_with_the_features(tmp_path, model):
    rng = np.random.default_rng(0)
    token_ids = rng.integers(2, 2 + len(WORDS), size=(12, 8)).astype(np.int32)
    contexts = write_split(tmp_path / "contexts", token_ids, np.repeat(np.arange(12, dtype=np.int32), 8).reshape(12, 8))
    text = HeldOutText(contexts, Segmenter(model.tokenizer, model.special_token_ids))
    sae = build(TopKConfig(d_sae=40, k=2), model.d_model, seed=1)
    shards = write_codes(tmp_path / "shards", rng.standard_normal((12, 8, model.d_model)), contexts)
    collect_contexts(tmp_path, sae, shards, text, model, CONFIG.model_copy(update={"n_promoted": 3}))
    found = read_contexts(tmp_path)
    assert found.promoted == promoted_words(sae, model, text.segmenter, found.features, 3)
    assert all(len(words) == 3 for words in found.promoted)
