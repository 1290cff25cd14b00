import numpy as np
import pytest

from sae_core import feature_contexts
from sae_core.config import ExplanationsConfig
from sae_core.feature_contexts import collect_contexts, halves, heaviest, rank_in_group
from sae_core.words import Segmenter, read_words
from tests.tiny_contexts import byte_level, identity_sae, write_codes, write_split

N_FEATURES = 5


@pytest.fixture
def world(tmp_path):
    """Random contexts of three documents each, and random sparse codes with ties."""
    rng = np.random.default_rng(0)
    tokenizer = byte_level()
    eos = tokenizer.eos_token_id
    token_ids = rng.integers(60, 300, size=(11, 16)).astype(np.int32)
    documents = np.repeat(np.arange(33).reshape(11, 3), [6, 5, 5], axis=1).astype(np.int32)
    token_ids[:, [0, 6, 11]], documents[:, [0, 6, 11]] = eos, -1
    contexts = write_split(tmp_path / "contexts", token_ids, documents)
    codes = rng.integers(0, 4, size=(11, 16, N_FEATURES)) * rng.integers(0, 2, size=(11, 16, N_FEATURES))
    codes[..., 4] = 0  # a dead feature
    shards = write_codes(tmp_path / "shards", codes.astype(float), contexts)
    words = read_words(token_ids, Segmenter(tokenizer, frozenset([eos])))
    return contexts, codes, shards, words


def _collect(world, features=None, n_contexts=3):
    contexts, _, shards, words = world
    return collect_contexts(
        identity_sae(N_FEATURES), shards, contexts, words, ExplanationsConfig(n_contexts=n_contexts), features
    )


def _brute_force(world, feature, half, n_contexts=3):
    """Fired count, strongest (activation, row, position) one a context, and word weights, by loops."""
    contexts, codes, _, words = world
    side, word = halves(contexts.document_ids), words.find(contexts.token_ids)
    fired, best, weight = 0, {}, np.zeros(len(words))
    for row in range(len(codes)):
        for position in range(1, 16):
            value = float(codes[row, position, feature])
            if value > 0 and side[row, position] == half:
                fired += 1
                weight[word[row, position]] += value**2
                if value > best.get(row, (0,))[0]:
                    best[row] = (value, row, position)
    return fired, sorted(best.values(), key=lambda found: (-found[0], found[1]))[:n_contexts], weight


def _assert_brute_force(world, found):
    for feature in range(N_FEATURES):
        for half in (0, 1):
            fired, best, weight = _brute_force(world, feature, half)
            assert found.n_fired[feature, half] == fired
            rows = zip(
                found.activation[feature, half], found.row[feature, half], found.position[feature, half], strict=True
            )
            assert [row for row in rows if row[1] >= 0] == best
            np.testing.assert_allclose(found.word_weights[[2 * feature + half]].toarray()[0], weight)


def test_one_pass_finds_what_loops_over_all_codes_find(world):
    _assert_brute_force(world, _collect(world))


def test_small_blocks_and_early_merges_change_nothing(world, monkeypatch):
    monkeypatch.setattr(feature_contexts, "_CODE_BLOCK", 7 * N_FEATURES)
    monkeypatch.setattr(feature_contexts, "_PENDING_CODES", 5)
    _assert_brute_force(world, _collect(world))


def test_a_subset_of_features_is_found_as_among_all(world):
    everything, some = _collect(world), _collect(world, np.array([1, 3]))
    assert some.features.tolist() == [1, 3]
    np.testing.assert_array_equal(some.row, everything.row[[1, 3]])
    np.testing.assert_array_equal(some.n_fired, everything.n_fired[[1, 3]])


def test_tokens_looked_at_are_those_of_documents_after_position_zero(world):
    assert _collect(world).n_tokens.sum() == (world[0].document_ids[:, 1:] >= 0).sum()


def test_the_two_halves_share_no_document(world):
    found, documents = _collect(world), world[0].document_ids
    for feature in range(N_FEATURES):
        seen = [
            {
                int(documents[r, p])
                for r, p in zip(found.row[feature, h], found.position[feature, h], strict=True)
                if r >= 0
            }
            for h in (0, 1)
        ]
        assert not seen[0] & seen[1]


def test_a_dead_feature_has_no_context(world):
    found = _collect(world)
    assert (found.row[4] == -1).all()
    assert (found.activation[4] == 0).all()


def test_light_words_are_dropped_when_there_are_too_many(world, monkeypatch):
    full = _collect(world)
    monkeypatch.setattr(feature_contexts, "_WORDS_LIMIT", 10)
    monkeypatch.setattr(feature_contexts, "_WORDS_KEPT", 2)
    kept = _collect(world).word_weights
    assert (np.diff(kept.indptr) <= 2).all()
    expected = heaviest(full.word_weights, 2)
    np.testing.assert_allclose(kept.toarray(), expected.toarray())


def test_halves_go_by_document_and_are_about_equal():
    sides = halves(np.arange(10_000))
    assert abs(sides.mean() - 0.5) < 0.02
    assert halves(np.array([-1, 7, 7])).tolist() == [-1, sides[7], sides[7]]


def test_rank_in_group_starts_again_with_each_value():
    assert rank_in_group(np.array([5, 5, 7, 9, 9, 9])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_group(np.array([])).tolist() == []


def test_activations_of_another_width_are_refused(world):
    contexts, _, shards, words = world
    with pytest.raises(ValueError, match="width 5, the SAE reads width 4"):
        collect_contexts(identity_sae(4), shards, contexts, words, ExplanationsConfig())


def test_contexts_the_activations_were_not_read_from_are_refused(world, tmp_path):
    contexts, _, shards, words = world
    other = write_split(tmp_path / "other", contexts.token_ids[::-1], contexts.document_ids[::-1])
    with pytest.raises(ValueError, match="not read from these contexts"):
        collect_contexts(identity_sae(N_FEATURES), shards, other, words, ExplanationsConfig())
