"""Where text comes from: the Hugging Face hub, local files, or a data file of an installed package."""

import glob
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, load_dataset

from sae_core.config import CorpusSource, HubCorpus, LocalCorpus, PackagedCorpus
from sae_core.model_sources import hub_commit
from sae_core.packages import package_path
from sae_core.store import digest_file, digest_json

_READERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""File endings and the ``datasets`` reader for each."""


def load_documents(source: CorpusSource) -> Dataset | IterableDataset:
    """The documents of a corpus, one record each, with the column ``text``; files and hub are streamed.

    Raises:
        FileNotFoundError, ModuleNotFoundError: if there is no such file or package; the message says what to do.
        ValueError: if the column is missing, or there is no document.
        ConnectionError: if the hub cannot be reached.
    """
    match source:
        case HubCorpus():
            revision = hub_commit(source.dataset, source.revision, "dataset")
            documents = load_dataset(
                source.dataset, source.subset, split=source.split, revision=revision, streaming=True
            )
            return _text_column(documents, source.column, f"dataset {source.dataset}")
        case LocalCorpus():
            paths = _local_files(source)
            reader = _READERS[paths[0].suffix]
            options: dict[str, Any] = {"sample_by": "document"} if reader == "text" else {}
            files = [str(path) for path in paths]
            documents = load_dataset(reader, data_files=files, split="train", streaming=True, **options)
            return _text_column(documents, "text" if reader == "text" else source.column, source.path)
        case PackagedCorpus():
            return _read_records(_package_file(source), source.column)


def corpus_digest(source: CorpusSource) -> str:
    """Digest of the text as it would be read now: of the files, or the commit of the hub's dataset.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: as ``load_documents``.
    """
    match source:
        case HubCorpus():
            return hub_commit(source.dataset, source.revision, "dataset")
        case LocalCorpus():
            # In reading order and without the names: a folder that moves is the same corpus.
            return digest_json([digest_file(path) for path in _local_files(source)])
        case PackagedCorpus():
            return digest_file(_package_file(source))


def _package_file(source: PackagedCorpus) -> Path:
    return package_path(source.package, source.file, source.install)


def _local_files(source: LocalCorpus) -> list[Path]:
    """The files of a local corpus, sorted by path, all of one kind."""
    path = Path(source.path).expanduser()
    if path.is_dir():
        found = [
            file for file in path.rglob("*") if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    else:
        found = [path] if path.is_file() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if file.is_file() and file.suffix in _READERS)
    if not files:
        raise FileNotFoundError(
            f"no text in {source.path}: expected a file, a folder or a glob of {', '.join(_READERS)}; "
            "check corpus.source.path"
        )
    files = [file for file in files if not _is_empty(file)]
    if not files:
        raise ValueError(f"the corpus {source.path} is empty: expected documents with text, got none")
    if len(readers := {_READERS[file.suffix] for file in files}) > 1:
        raise ValueError(
            f"{source.path} mixes kinds of files ({', '.join(sorted(readers))}): expected one kind; give a glob such "
            f"as {source.path.rstrip('/')}/*.jsonl"
        )
    return files


def _is_empty(path: Path) -> bool:
    """Whether a file holds no document; ``datasets`` fails on those with an error about something else."""
    if path.suffix == ".parquet":
        return bool(pq.read_metadata(path).num_rows == 0)
    return path.stat().st_size == 0


def _text_column(documents: IterableDataset, column: str, where: str) -> IterableDataset:
    """The same documents with one column, named ``text``."""
    first = next(iter(documents), None)
    if first is None:
        raise ValueError(f"the corpus {where} is empty: expected documents with text, got none")
    if column not in first:
        raise ValueError(f"{where} has no column {column!r}; it has {', '.join(first)}: set corpus.source.column")
    documents = documents.select_columns([column])
    return documents if column == "text" else documents.rename_column(column, "text")


def _read_records(path: Path, column: str) -> Dataset:
    """Documents of a JSON file: a list of records, or a mapping from ids to records."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    records = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(
            f"{path}: expected a JSON list of records, or a mapping from ids to records; got something else"
        )
    if not records:
        raise ValueError(f"the corpus {path} is empty: expected documents with text, got none")
    if not any(column in record for record in records):
        known = dict.fromkeys(key for record in records[:100] for key in record)
        raise ValueError(
            f"{path} has no field {column!r}; its records have {', '.join(known)}: set corpus.source.column"
        )
    return Dataset.from_dict({"text": [record.get(column) for record in records]})
