import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core import activations as module
from sae_core.activations import estimate, extract, kept_tokens
from sae_core.config import ActivationsConfig, CorpusConfig, LanguageModelConfig, LocalCorpus, LocalModel
from sae_core.corpus import load_documents, open_contexts, write_contexts
from sae_core.language_models import LanguageModel, load_language_model
from sae_core.shards import open_shards
from sae_core.store import ArtifactStore
from tests.tiny import make_corpus, make_model

HOOK = "model.layers.1"
SPLITS = ("train", "held_out")


def load(folder):
    source = LocalModel(kind="local", path=str(folder / "model"))
    return load_language_model(LanguageModelConfig(name="tiny", source=source, dtype="float32"), ArtifactStore(folder))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model and a packed corpus of about 60 contexts of 32 tokens."""
    folder = tmp_path_factory.mktemp("world")
    make_model(folder / "model")
    source = LocalCorpus(kind="local", path=str(make_corpus(folder / "corpus.jsonl", n_documents=60)))
    (folder / "contexts").mkdir()
    config = CorpusConfig(source=source, context_length=32, held_out_fraction=0.3)
    write_contexts(folder / "contexts", load_documents(source), load(folder).tokenizer, config)
    return folder


@pytest.fixture(scope="module")
def model(world):
    return load(world)


@pytest.fixture(scope="module")
def contexts(world):
    return open_contexts(world / "contexts")


def config(**options):
    return ActivationsConfig(**({"shard_tokens": 256, "batch_contexts": 3, "dtype": "float32"} | options))


def files(folder):
    """Content of an extraction: every file that does not belong to the making."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("_"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def all_rows(shards):
    blocks = [shards.read(i) for i in range(shards.n_shards)]
    ids = [np.concatenate([getattr(b, name) for b in blocks]) for name in ("token_ids", "context_ids", "positions")]
    return torch.cat([block.activations for block in blocks]), *ids


@pytest.fixture(scope="module")
def undisturbed(world, model, contexts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = extract(folder, model, contexts, HOOK, config())
    return folder, summary


def test_a_stored_row_is_what_the_model_gives_for_its_token(undisturbed, model, contexts):
    for name in SPLITS:
        token_ids = contexts.split(name).token_ids
        expected = model.read(torch.from_numpy(token_ids), HOOK)
        x, tokens, rows, positions = all_rows(open_shards(undisturbed[0] / name))
        np.testing.assert_array_equal(tokens, token_ids[rows, positions])
        torch.testing.assert_close(x, expected[rows, positions], atol=1e-6, rtol=1e-5)


def test_every_token_but_position_0_and_special_ones_is_stored_once(undisturbed, contexts):
    for name in SPLITS:
        _, _, rows, positions = all_rows(open_shards(undisturbed[0] / name))
        token_ids = contexts.split(name).token_ids
        wanted = {(i, j) for i, j in np.argwhere(token_ids > 1) if j > 0}  # 0 and 1 are <eos> and <unk>
        assert len(rows) == len(wanted)
        assert set(zip(rows, positions, strict=True)) == wanted


def test_position_0_and_special_tokens_are_kept_when_asked_for(model, contexts, tmp_path):
    for keep, n in (
        ({"keep_first_position": True, "keep_special_tokens": True}, 32),
        ({"keep_special_tokens": True}, 31),
    ):
        summary = extract(tmp_path, model, contexts, HOOK, config(max_norm_ratio=None, **keep))
        assert summary["n_train_tokens"] == n * contexts.split("train").n_contexts


def test_kept_tokens_by_hand():
    token_ids = np.array([[5, 6, 0, 7], [0, 0, 8, 9]], np.int32)

    def kept(**options):
        return kept_tokens(token_ids, frozenset({0}), ActivationsConfig(**options)).astype(int).tolist()

    assert kept() == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert kept(keep_first_position=True) == [[1, 1, 0, 1], [0, 0, 1, 1]]
    assert kept(keep_special_tokens=True) == [[0, 1, 1, 1], [0, 1, 1, 1]]


def test_held_out_rows_are_in_order_and_training_rows_are_shuffled_by_the_seed(undisturbed, model, contexts, tmp_path):
    _, _, rows, positions = all_rows(open_shards(undisturbed[0] / "held_out"))
    assert (np.diff(rows * 32 + positions) > 0).all()
    _, _, rows, positions = all_rows(open_shards(undisturbed[0] / "train"))
    assert 0.4 < (np.diff(rows * 32 + positions) > 0).mean() < 0.6
    extract(tmp_path, model, contexts, HOOK, config(shuffle_seed=1))
    _, _, other_rows, other_positions = all_rows(open_shards(tmp_path / "train"))
    assert (rows != other_rows).any()
    assert sorted(zip(rows, positions, strict=True)) == sorted(zip(other_rows, other_positions, strict=True))


def test_shards_hold_about_the_asked_number_of_rows(undisturbed):
    shards = open_shards(undisturbed[0] / "train")
    sizes = [entry.n_tokens for entry in shards.index.shards]
    assert len(sizes) > 3
    assert all(abs(size - 256) <= 31 for size in sizes[:-1])


def test_the_summary_and_the_mean_squared_norm_are_those_of_the_stored_rows(undisturbed):
    folder, summary = undisturbed
    shards = open_shards(folder / "train")
    x, *_ = all_rows(shards)
    assert summary["mean_squared_norm"] == pytest.approx(x.double().square().sum(dim=1).mean().item(), rel=1e-6)
    assert summary["n_train_tokens"] == shards.n_tokens == len(x)
    assert summary["d_in"] == shards.d_in == 32
    assert summary["n_shards"]["train"] == shards.n_shards
    assert summary["n_left_out"] == 0


def test_the_estimate_has_the_exact_counts_and_slightly_too_many_bytes(undisturbed, model, contexts):
    folder, summary = undisturbed
    expected = estimate(contexts, 32, model.special_token_ids, config())
    assert expected.n_train_tokens == summary["n_train_tokens"]
    assert expected.n_held_out_tokens == summary["n_held_out_tokens"]
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    n_shards = sum(summary["n_shards"].values())
    assert n_bytes <= expected.n_bytes <= n_bytes + 4096 * n_shards


def test_two_extractions_give_the_same_bytes_and_progress_changes_none(undisturbed, model, contexts, tmp_path):
    seen = []
    extract(tmp_path, model, contexts, HOOK, config(), lambda *args: seen.append(args))
    assert files(tmp_path) == files(undisturbed[0])
    assert sorted(files(tmp_path)) == sorted(
        f"{name}/{file}"
        for name in SPLITS
        for file in ["shards.json", *(f"shard-{i:05d}.parquet" for i in range(undisturbed[1]["n_shards"][name]))]
    )
    done, total, text = seen[-1]
    assert done == total == sum(undisturbed[1][f"n_{name}_tokens"] for name in SPLITS)
    assert "tokens/s" in text
    assert json.loads((tmp_path / "_timing.json").read_text())["n_tokens"] == total


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 11, 14, 17])
def test_an_extraction_interrupted_anywhere_is_completed_to_the_same_bytes(
    undisturbed, model, contexts, tmp_path, monkeypatch, after
):
    renames = []

    def stop_after(*args, rename=os.replace):
        if len(renames) == after:
            raise Interrupted
        renames.append(args)
        rename(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_after)
        with pytest.raises(Interrupted):
            extract(tmp_path, model, contexts, HOOK, config())
    extract(tmp_path, model, contexts, HOOK, config())
    assert files(tmp_path) == files(undisturbed[0])


def count_forwards(model, monkeypatch):
    calls = []
    original = LanguageModel.read
    monkeypatch.setattr(LanguageModel, "read", lambda self, *args: calls.append(1) or original(self, *args))
    return calls


def test_whole_shards_are_not_computed_again_and_altered_ones_are(model, contexts, tmp_path, undisturbed, monkeypatch):
    off = config(max_norm_ratio=None)
    extract(tmp_path, model, contexts, HOOK, off)
    complete = files(tmp_path)
    calls = count_forwards(model, monkeypatch)
    extract(tmp_path, model, contexts, HOOK, off)
    assert not calls
    path = tmp_path / "train" / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    extract(tmp_path, model, contexts, HOOK, off)
    assert 0 < len(calls) <= 5
    assert files(tmp_path) == complete


def test_what_another_extraction_left_is_not_mixed_in(model, contexts, tmp_path, undisturbed):
    extract(tmp_path, model, contexts, "model.layers.0", config())
    extract(tmp_path, model, contexts, HOOK, config())
    assert files(tmp_path) == files(undisturbed[0])


SCRIPT = """
import sys, time
from pathlib import Path
import torch
from tests.test_activations import make
torch.set_num_threads(1)
two_shards = lambda: list(Path(sys.argv[2]).rglob("shard-00001.parquet.json"))
make(Path(sys.argv[1]), sys.argv[2], lambda *progress: two_shards() and time.sleep(600))
"""


def make(world, root, progress=None):
    def build(folder):
        return extract(folder, load(world), open_contexts(world / "contexts"), HOOK, config(), progress)

    return ArtifactStore(root).get_or_build("activations", build, code_version="1", inputs={})


def test_kill_9_during_extraction_loses_at_most_a_shard_and_the_content_digest_is_the_same(world, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(world), str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("shard-00001.parquet.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(ArtifactStore(tmp_path / "killed").artifacts())
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("shard-0000[01].parquet")}
    assert len(kept) == 2
    resumed, undisturbed = make(world, tmp_path / "killed"), make(world, tmp_path / "undisturbed")
    assert resumed.content == undisturbed.content
    assert {name: (resumed.path / "train" / name).stat().st_mtime_ns for name in kept} == kept


# --- refusals ---------------------------------------------------------------------------------------------------


class Doctored(LanguageModel):
    """A model whose output at one place is something else."""

    def __init__(self, model, value, position=5, context=None):
        super().__init__(model.model, model.tokenizer, model.digest)
        self.value, self.position, self.context = value, position, context

    def read(self, token_ids, hook):
        output = super().read(token_ids, hook).clone()
        if token_ids.shape[1] == 32:  # not the short probe that asks for the width
            here = (token_ids == self.context).all(dim=1) if self.context is not None else slice(None)
            output[here, self.position] = self.value
        return output


def place(contexts, i=4):
    """A kept position of a training context, and its token ids."""
    token_ids = contexts.split("train").token_ids[i]
    return int(np.flatnonzero(token_ids[1:] > 1)[3]) + 1, torch.from_numpy(token_ids)


@pytest.mark.parametrize("ratio", [10.0, None])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_with_shard_and_context(model, contexts, tmp_path, value, ratio):
    position, tokens = place(contexts)
    with pytest.raises(
        ValueError, match=r"train/shard-0000\d.parquet, context 4: expected finite activations, got NaN"
    ):
        extract(tmp_path, Doctored(model, value, position, tokens), contexts, HOOK, config(max_norm_ratio=ratio))


def test_float16_overflow_is_refused_and_names_the_remedy(model, contexts, tmp_path):
    position, tokens = place(contexts)
    doctored = Doctored(model, 1e5, position, tokens)
    options = {"dtype": "float16", "max_norm_ratio": None}
    with pytest.raises(ValueError, match=r"context 4: an activation of 100000 does not fit into float16 .*bfloat16"):
        extract(tmp_path, doctored, contexts, HOOK, config(**options))
    extract(tmp_path, doctored, contexts, HOOK, config(**options | {"dtype": "bfloat16"}))


def test_tokens_with_a_huge_norm_are_left_out_and_counted(model, contexts, tmp_path, undisturbed):
    position, tokens = place(contexts)
    summary = extract(tmp_path, Doctored(model, 1e4, position, tokens), contexts, HOOK, config())
    assert summary["n_left_out"] == 1
    x, _, rows, positions = all_rows(open_shards(tmp_path / "train"))
    assert (4, position) not in set(zip(rows, positions, strict=True))
    assert len(x) == undisturbed[1]["n_train_tokens"] - 1
    assert x.norm(dim=1).max() <= summary["max_norm"] < 1e4


def test_position_0_stays_whatever_its_norm_when_it_is_asked_for(model, contexts, tmp_path):
    keep = config(keep_first_position=True, keep_special_tokens=True)
    summary = extract(tmp_path, Doctored(model, 1e4, position=0), contexts, HOOK, keep)
    assert summary["n_left_out"] == 0
    assert summary["n_train_tokens"] == 32 * contexts.split("train").n_contexts


def test_a_disk_that_cannot_hold_the_shards_is_refused_before_anything_is_computed(
    model, contexts, tmp_path, monkeypatch
):
    model.d_in(HOOK)
    calls = count_forwards(model, monkeypatch)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"extracting model.layers.1 needs 0.00 GB, but .* free some space"):
        extract(tmp_path, model, contexts, HOOK, config())
    assert not calls


def test_a_wrong_hook_is_refused(model, contexts, tmp_path):
    with pytest.raises(ValueError, match="layer 7 is out of range: 0 to 2"):
        extract(tmp_path, model, contexts, "model.layers.7", config())


def test_contexts_of_special_tokens_alone_are_refused(contexts, monkeypatch):
    with pytest.raises(
        ValueError, match=r"the train part has no token to store: all .* contexts hold nothing but special"
    ):
        estimate(contexts, 4, frozenset(range(100)), module.ActivationsConfig())
