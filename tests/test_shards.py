import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sae_core import shard_files
from sae_core import shards as shards_module
from sae_core.shard_pages import ask_ahead, map_pages
from sae_core.shards import ShardData, ShardError, open_shards, write_shard, write_shards

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def rows(n, d_in=6, first=0):
    """Rows whose first number counts them, so that a row can be recognised after shuffling."""
    generator = torch.Generator().manual_seed(first)
    activations = torch.randn((n, d_in), generator=generator).half().float()
    activations[:, 0] = torch.arange(first, first + n)
    ids = np.arange(first, first + n)
    return ShardData(activations, (ids % 7).astype(np.int32), (ids // 4).astype(np.int64), (ids % 4).astype(np.int32))


@pytest.fixture
def shards(tmp_path):
    """40 rows in shards of 16, 16 and 8."""
    return write_shards(tmp_path / "train", [rows(16), rows(16, first=16), rows(8, first=32)])


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def counted(batches):
    return [int(value) for batch in batches for value in batch[:, 0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_written_is_read_back_in_the_stored_precision(tmp_path, dtype):
    given = rows(10)
    original = given.activations.clone()
    read = write_shards(tmp_path, [given], dtype).read(0)
    assert torch.equal(given.activations, original)
    assert torch.equal(read.activations, original.to(DTYPES[dtype]).float())
    assert read.activations.dtype == torch.float32
    for name in ("token_ids", "context_ids", "positions"):
        np.testing.assert_array_equal(getattr(read, name), getattr(given, name))


def test_plain_pyarrow_reads_the_files_as_the_module_says(shards):
    table = pq.read_table(shards.folder / "shard-00001.parquet")
    x = np.frombuffer(b"".join(table["activation"].to_pylist()), np.float16).reshape(-1, 6)
    np.testing.assert_array_equal(x, shards.read(1).activations.numpy())
    assert [str(field.type) for field in table.schema] == ["fixed_size_binary[12]", "int32", "int64", "int32"]
    assert not any(field.nullable for field in table.schema)
    assert table.schema.metadata[b"dtype"] == b"float16"
    assert table.schema.metadata[b"d_in"] == b"6"


def test_a_file_is_mapped_and_equals_what_the_parquet_reader_decodes(shards):
    pages = map_pages(shards.folder / "shard-00000.parquet", 6, torch.float16)
    table = pq.read_table(shards.folder / "shard-00000.parquet")
    assert pages.is_mapped
    assert pages.pages[0].numpy().tobytes() == b"".join(table["activation"].to_pylist())


def test_a_long_shard_has_several_row_groups_and_reads_the_same(tmp_path, monkeypatch):
    whole = write_shards(tmp_path / "whole", [rows(50)])
    monkeypatch.setattr(shard_files, "ROW_GROUP_BYTES", 7 * 12)
    parts = write_shards(tmp_path / "parts", [rows(50)])
    assert pq.read_metadata(tmp_path / "parts" / "shard-00000.parquet").num_row_groups == 8
    assert map_pages(tmp_path / "parts" / "shard-00000.parquet", 6, torch.float16).is_mapped
    assert torch.equal(parts.read(0).activations, whole.read(0).activations)
    for a, b in zip(take(parts.batches(8, 0), 9), take(whole.batches(8, 0), 9), strict=True):
        assert torch.equal(a, b)
    blocks = [block.activations for block in parts.in_order(9)]
    assert [len(block) for block in blocks] == [9, 9, 9, 9, 9, 5]
    assert torch.equal(torch.cat(blocks), whole.read(0).activations)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": ["activation"]},
        {"max_rows_per_page": 5},
        {"data_page_version": "2.0"},
        {"compression": "none", "row_group_size": 6},
    ],
)
def test_files_that_others_rewrote_are_read_too(tmp_path, options):
    path = tmp_path / "shard.parquet"
    given = rows(20)
    write_shard(path, given.activations, given.token_ids, given.context_ids, given.positions, "float16")
    row_group_size = options.pop("row_group_size", None)
    defaults = {"compression": "none", "use_dictionary": False}
    pq.write_table(pq.read_table(path), path, row_group_size=row_group_size, **(defaults | options))
    pages = map_pages(path, 6, torch.float16)
    assert pages.is_mapped == (row_group_size is not None)
    assert torch.equal(pages.between(0, 20).float(), given.activations)
    order = np.random.default_rng(0).permutation(20)
    assert torch.equal(pages.gather(order).float(), given.activations[torch.from_numpy(order)])


def test_a_nullable_column_has_levels_before_its_values_and_is_decoded(tmp_path):
    path = tmp_path / "shard.parquet"
    values = rows(20).activations.half().numpy()
    column = pa.array([row.tobytes() for row in values], pa.binary(12))
    pq.write_table(pa.table({"activation": column}), path, compression="none", use_dictionary=False)
    pages = map_pages(path, 6, torch.float16)
    assert not pages.is_mapped
    np.testing.assert_array_equal(pages.between(0, 20).numpy(), values)


def test_the_mean_squared_norm_is_that_of_the_stored_values(tmp_path):
    activations = torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 2.0]])
    ids = np.zeros(3, np.int32)
    shards = write_shards(tmp_path, [ShardData(activations, ids, ids.astype(np.int64), ids)])
    assert shards.mean_squared_norm == pytest.approx((25 + 1 + 8) / 3)
    rounded = write_shards(tmp_path / "b", [ShardData(activations + 0.001, ids, ids.astype(np.int64), ids)], "bfloat16")
    assert rounded.mean_squared_norm == pytest.approx((25 + 1 + 8) / 3)  # bfloat16 cannot hold the 0.001


def test_an_epoch_shows_every_row_once_and_the_next_one_in_another_order(shards):
    batches = take(shards.batches(8, seed=0), 10)
    first, second = counted(batches[:5]), counted(batches[5:])
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert all(batch.dtype == torch.float32 and batch.shape == (8, 6) for batch in batches)


def test_rows_that_do_not_fill_a_batch_are_left_out_of_their_epoch_only(shards):
    batches = take(shards.batches(12, seed=0), 30)
    epochs = [set(counted(batches[i : i + 3])) for i in range(0, 30, 3)]
    assert all(len(epoch) == 36 for epoch in epochs)
    assert set().union(*epochs) == set(range(40))


def test_the_whole_row_travels_through_the_shuffling(shards):
    stored = torch.cat([shards.read(i).activations for i in range(3)])
    for batch in take(shards.batches(7, seed=3), 12):
        assert torch.equal(batch, stored[batch[:, 0].long()])


def test_the_seed_decides_the_order(shards):
    same, again, other = (counted(take(shards.batches(8, seed), 5)) for seed in (1, 1, 2))
    assert same == again != other


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 13, 1000])
def test_skipping_batches_gives_what_would_have_come_then(shards, start):
    whole = take(shards.batches(7, seed=4), 16) if start < 14 else take(shards.batches(7, seed=4), 1002)
    for expected, got in zip(whole[start:], take(shards.batches(7, seed=4, start=start), 2), strict=False):
        assert torch.equal(expected, got)


def test_batches_leave_the_files_and_the_global_generators_alone(shards):
    before = hashlib.sha256((shards.folder / "shard-00000.parquet").read_bytes()).hexdigest()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for batch in take(shards.batches(8, seed=0), 6):
        batch.zero_()
    shards.read(0).activations.zero_()
    assert hashlib.sha256((shards.folder / "shard-00000.parquet").read_bytes()).hexdigest() == before
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    shards.verify()


def test_writing_into_float32_rows_does_not_change_what_is_read_next(tmp_path):
    shards = write_shards(tmp_path, [rows(10)], "float32")
    shards.read(0).activations.zero_()
    assert shards.read(0).activations.abs().sum() > 0


def test_fewer_tokens_than_a_batch_are_refused_at_once(shards):
    with pytest.raises(ValueError, match=r"between 1 and the 40 tokens .* got 41; lower training.batch_size"):
        shards.batches(41, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_with_shard_and_context(tmp_path, value):
    bad = rows(10)
    bad.activations[9, 2] = value
    with pytest.raises(
        ValueError, match=r"shard-00000.parquet, context 2: expected finite activations, got NaN or inf"
    ):
        write_shards(tmp_path, [bad])
    assert not (tmp_path / "shard-00000.parquet").exists()


def test_float16_overflow_is_refused_and_names_the_remedy(tmp_path):
    large = rows(10)
    large.activations[5, 1] = 70_000
    with pytest.raises(ValueError, match=r"context 1: an activation of 70000 does not fit into float16.*to bfloat16"):
        write_shards(tmp_path, [large])
    assert write_shards(tmp_path, [large], "bfloat16").read(0).activations[5, 1] == pytest.approx(70_000, rel=0.01)


def test_an_altered_shard_is_refused_when_it_is_first_used(shards):
    path = shards.folder / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert len(shards.read(0).activations) == 16
    with pytest.raises(ShardError, match=r"shard-00001.parquet has sha256 .* expected .*materialize activations again"):
        shards.read(1)
    with pytest.raises(ShardError, match="it was altered"):
        take(shards.batches(8, seed=0), 5)
    with pytest.raises(ShardError, match="it was altered"):
        shards.verify()


# --- a share of the contexts -------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """4,000 rows in 1,000 contexts, in shards of 1,000."""
    return write_shards(tmp_path / "many", [rows(1000, first=1000 * i) for i in range(4)], "float32")


def seen(shards, fraction, seed):
    """Rows of an epoch of a subset."""
    subset = shards.subset(fraction, seed)
    return set(counted(take(subset.batches(1, seed=0), subset.n_tokens)))


def test_a_subset_has_whole_contexts_about_as_many_as_asked_for(many):
    found = seen(many, 0.3, seed=1)
    contexts = {row // 4 for row in found}
    assert len(found) == 4 * len(contexts) == many.subset(0.3, 1).n_tokens
    assert abs(len(contexts) - 300) < 60


def test_the_seed_draws_the_contexts_and_a_larger_share_holds_a_smaller_one(many):
    half = seen(many, 0.5, seed=1)
    assert half == seen(many, 0.5, seed=1)
    assert seen(many, 0.2, seed=1) < half
    other = seen(many, 0.5, seed=2)
    # Independent: a quarter of all rows is in both.
    assert 700 < len(half & other) < 1300
    assert seen(many, 1.0, seed=1) == set(range(4000))


def test_a_subset_has_epochs_and_resumes_like_the_whole(many):
    subset = many.subset(0.4, seed=3)
    n = subset.n_tokens // 64
    whole = take(subset.batches(64, seed=5), 2 * n)
    first, second = counted(whole[:n]), counted(whole[n:])
    assert len(set(first)) == len(first)
    assert set(first) | set(second) <= seen(many, 0.4, seed=3)
    assert first != second
    for start in (1, n - 1, n, n + 2):
        assert torch.equal(whole[start], next(subset.batches(64, seed=5, start=start)))


def test_all_contexts_in_the_order_of_the_seed_are_the_whole(many):
    for left, right in zip(take(many.batches(64, 7), 70), take(many.subset(1.0, 9).batches(64, 7), 70), strict=True):
        assert torch.equal(left, right)


def test_a_shard_of_which_no_context_was_drawn_is_passed_over(tmp_path):
    # One context in each shard, so that most shards of a small share are empty.
    data = [rows(8, first=8 * i) for i in range(40)]
    data = [ShardData(d.activations, d.token_ids, np.full(8, i), d.positions) for i, d in enumerate(data)]
    shards = write_shards(tmp_path / "s", data, "float32")
    subset = shards.subset(0.2, seed=0)
    assert 0 < subset.n_tokens < 200
    assert len(set(counted(take(subset.batches(8, 1), subset.n_tokens // 8)))) == subset.n_tokens


def test_a_subset_has_the_scale_of_the_whole_and_says_what_it_is_when_it_is_too_small(many):
    subset = many.subset(0.01, seed=0)
    assert (subset.mean_squared_norm, subset.d_in) == (many.mean_squared_norm, 6)
    with pytest.raises(ValueError, match=r"tokens drawn from .* \(data_fraction 0.01, data_seed 0\): got 2,000; lower"):
        subset.batches(2000, seed=0)


# --- reading ahead -----------------------------------------------------------------------------------------------


def test_the_next_shard_is_asked_for_when_the_reading_of_one_begins(shards, monkeypatch):
    asked = []
    monkeypatch.setattr(shards_module, "ask_ahead", lambda path: asked.append(path.name))
    opened = []
    verify = shards._verify
    monkeypatch.setattr(shards, "_verify", lambda i: (opened.append(f"shard-{i:05d}.parquet"), verify(i)))
    take(shards.batches(8, seed=0), 5)
    assert asked == opened[1:]
    assert len(opened) == 3


def test_a_file_that_is_not_there_is_not_asked_for(tmp_path):
    ask_ahead(tmp_path / "missing")
    (tmp_path / "empty").touch()
    ask_ahead(tmp_path / "empty")
    (tmp_path / "large").write_bytes(bytes(300_000))
    ask_ahead(tmp_path / "large")


def test_a_few_files_are_open_however_many_there_are(tmp_path):
    shards = write_shards(tmp_path / "s", [rows(4, first=4 * i) for i in range(50)])
    assert sorted(counted(take(shards.batches(10, seed=0), 20))) == list(range(200))
    assert len(shards._pages) == shards_module._OPEN_AT_ONCE


def test_a_missing_shard_is_refused(shards):
    (shards.folder / "shard-00002.parquet").unlink()
    with pytest.raises(ShardError, match=r"shard-00002.parquet is missing; materialize activations again"):
        shards.verify()


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no shard in .*; materialize activations/<model>/<hook> first"):
        open_shards(tmp_path)


def test_shards_of_a_newer_version_are_refused(shards):
    index = json.loads((shards.folder / "shards.json").read_text())
    (shards.folder / "shards.json").write_text(json.dumps(index | {"format_version": 2, "new": 1}))
    with pytest.raises(ShardError, match=r"has format version 2, .* reads up to 1; upgrade"):
        open_shards(shards.folder)


def test_no_token_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected at least one token"):
        write_shards(tmp_path, [])
