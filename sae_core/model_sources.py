"""Where a language model comes from: found, identified by a digest, and loaded.

A GGUF file of an installed package is converted once into the store, since transformers needs most of a minute to
read it; a folder written by ``save_pretrained`` loads in a second.
"""

import json
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sae_core.config import HubModel, LocalModel, ModelSource, PackagedModel
from sae_core.packages import package_path
from sae_core.recipes import recipe
from sae_core.store import Artifact, ArtifactStore, digest_file, digest_json

CONVERSION_VERSION = "1"
"""Version of the code that converts a GGUF file."""

_KIND = "language_model"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")
"""Files of a local folder that decide what is loaded: configuration, weights, tokenizer."""


@lru_cache(maxsize=512)
def _digest_unchanged(path: Path, size: int, mtime_ns: int) -> str:
    return digest_file(path)


def _digest(path: Path) -> str:
    """sha256 of a file; hashed once in a process as long as size and time of change stay."""
    stat = path.stat()
    return _digest_unchanged(path, stat.st_size, stat.st_mtime_ns)


def model_digest(source: ModelSource) -> str:
    """Digest of weights and tokenizer as they would be read now.

    Hub: the commit that the revision points to. Local folder: digest of the files. Package: digest of its version
    and of the file.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: if the source is missing or is not what
            was expected; the message says what to do.
    """
    match source:
        case HubModel():
            return hub_commit(source.repo_id, source.revision, "model")
        case LocalModel():
            folder = _local_folder(source)
            files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _READ_SUFFIXES)
            return digest_json({path.name: _digest(path) for path in files})
        case PackagedModel():
            version = metadata.version(source.package.split(".")[0].replace("_", "-"))
            return digest_json({"version": version, "sha256": _digest(_gguf(source))})


def hub_commit(repo_id: str, revision: str | None, repo_type: str) -> str:
    """The commit a revision of a hub repository points to; a full commit needs no request.

    Raises:
        ValueError: if there is no such repository or revision.
        ConnectionError: if the hub cannot be reached.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        sha = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"the Hugging Face hub has no {repo_type} {repo_id!r} at revision {revision or 'main'!r}, or it is "
            "private: check the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # the client raises the errors of its transport, which are not part of its API
        raise ConnectionError(
            f"cannot ask the Hugging Face hub for {repo_type} {repo_id!r} ({type(error).__name__}: {error}); "
            "check the network, give a full commit as revision when it is in the local cache, or use a local source"
        ) from error
    return str(sha)


def _local_folder(source: LocalModel) -> Path:
    folder = Path(source.path).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no language model in {folder}: expected a folder with config.json, weights and tokenizer files, as "
            "save_pretrained writes it; check source.path"
        )
    return folder


def _gguf(source: PackagedModel) -> Path:
    """The GGUF file, refused unless it has the expected digest."""
    path = package_path(source.package, source.file, source.install)
    if source.sha256 is not None and (found := _digest(path)) != source.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {source.sha256}; install the expected version with: {source.install}"
        )
    return path


def _where(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """First argument and keywords of ``from_pretrained``, for sources that it can read."""
    match source:
        case HubModel():
            return source.repo_id, {"revision": hub_commit(source.repo_id, source.revision, "model")}
        case LocalModel():
            return str(_local_folder(source)), {"local_files_only": True}
        case PackagedModel():
            path = _gguf(source)
            return str(path.parent), {"gguf_file": path.name, "local_files_only": True}


def load_pretrained(
    source: ModelSource, dtype: torch.dtype, store: ArtifactStore
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights and tokenizer. A packaged GGUF file is read from the store, where it is converted on the first call."""
    if isinstance(source, PackagedModel):
        where, options = str(make_language_model(store, source).path), {"local_files_only": True}
    else:
        where, options = _where(source)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **options)
    return model, AutoTokenizer.from_pretrained(where, **options)


def make_language_model(store: ArtifactStore, source: PackagedModel) -> Artifact:
    """The model of a packaged GGUF file, as a folder that transformers loads."""
    return store.get_or_build(
        _KIND,
        lambda folder: _convert_gguf(_gguf(source), folder),
        code_version=CONVERSION_VERSION,
        inputs=_conversion_inputs(source),
        recipe=recipe("language_model", source=source),
    )


def _conversion_inputs(source: PackagedModel) -> dict[str, str]:
    return {"source": model_digest(source), "transformers": metadata.version("transformers")}


def _convert_gguf(path: Path, folder: Path) -> Mapping[str, Any]:
    """Dequantise a GGUF file, in float32 and so without loss, into a folder as ``save_pretrained`` writes it."""
    shutil.rmtree(folder)
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, local_files_only=True, dtype=torch.float32
    )
    # The weights are plain numbers now; transformers refuses to save a model that calls itself quantised.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # The name inside the GGUF file is not a place to load from, and would end up in the configuration.
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "file": path.name,
        "n_parameters": model.num_parameters(),
        "architecture": type(model).__name__,
        "config": json.loads(model.config.to_json_string()),
    }


@lru_cache(maxsize=16)
def _skeleton(where: str, options: str, digest: str) -> PreTrainedModel:
    """``digest`` keeps a skeleton from outliving a change of its source."""
    config = AutoConfig.from_pretrained(where, **json.loads(options))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def skeleton(source: ModelSource, store: ArtifactStore | None = None) -> PreTrainedModel:
    """The model without weights (on the meta device), built from its configuration alone.

    Args:
        store: where a packaged model may have been converted already.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: as ``model_digest``.
    """
    where, options = _where(source)
    if isinstance(source, PackagedModel) and store is not None:
        fingerprint = store.fingerprint(_KIND, CONVERSION_VERSION, _conversion_inputs(source), {})
        if artifact := store.get(_KIND, fingerprint):
            where, options = str(artifact.path), {"local_files_only": True}
    return _skeleton(where, json.dumps(options, sort_keys=True), model_digest(source))
