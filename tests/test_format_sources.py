"""Where SAEs lie: the real client of the hub against a hub on this machine, its cache, and local paths."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch

from sae_core.architectures import build
from sae_core.config import TopKConfig
from sae_core.formats import load_dictionary, load_sae, resolve, save_sae
from tests.tiny_hub import COMMIT, REPO, serving

LOAD = """
import json, sys
from sae_core.formats import load_dictionary
for location in sys.stdin:
    try:
        found = load_dictionary(location.strip())
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    else:
        answer = {"name": found.name, "sum": float(found.W_dec.sum()), **found.source.model_dump()}
    print(json.dumps(answer), flush=True)
"""


def small_sae(seed=0):
    return build(TopKConfig(d_sae=24, k=3), d_in=8, seed=seed).requires_grad_(False)


@contextmanager
def another_process(cache, endpoint, offline):
    """A function that gives what ``load_dictionary`` says in a new process, whose hub and cache are given."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "NO_PROXY": "*", "no_proxy": "*"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1" if offline else "0"}
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", LOAD]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def load(location):
            process.stdin.write(location + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield load
        process.stdin.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A repository with three SAEs, one of them below another, and what a new process reads from it."""
    folder, cache = tmp_path_factory.mktemp("repo"), tmp_path_factory.mktemp("cache")
    for seed, name in enumerate(["seed0", "seed[1]", "seed0/nested"]):
        save_sae(small_sae(seed), folder / name)
    np.save(folder / "bare.npy", np.ones((5, 3), np.float32))
    (folder / "notes").mkdir()
    (folder / "notes" / "README.md").write_text("nothing here")
    lines = [f"hf://{REPO}@v1/seed[1]", f"hf://{REPO}/bare.npy", f"hf://{REPO}/missing", f"hf://{REPO}/notes"]
    lines += [f"hf://{REPO}@v9/seed0", "hf://someone/nothing/seed0", "hf://not a name/x/y"]
    with ExitStack() as server, ExitStack() as processes:
        endpoint, downloaded = server.enter_context(serving(folder))
        load = processes.enter_context(another_process(cache, endpoint, offline=False))
        first, fetched = load(f"hf://{REPO}/seed0"), sorted(downloaded)
        rest = [load(line) for line in lines]
        server.close()
        gone = [load(f"hf://{REPO}@{COMMIT}/seed0"), load("hf://someone/else/seed0")]
        load = processes.enter_context(another_process(cache, endpoint, offline=True))
        offline = [load(f"hf://{REPO}/seed0"), load(f"hf://{REPO}/seed0/nested")]
    return {"folder": folder, "first": first, "fetched": fetched, "rest": rest, "offline": offline, "gone": gone}


def test_a_folder_of_a_hub_repository_is_read_and_pinned_to_its_commit(hub):
    found, folder = hub["first"], hub["folder"] / "seed0"
    assert (found["format"], found["repo"], found["revision"]) == ("saelens", REPO, COMMIT)
    assert found["name"] == f"{REPO}/seed0"
    assert found["sum"] == pytest.approx(float(small_sae().W_dec.sum()), abs=1e-5)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found["files"]}
    assert found["files"] == digests
    assert sorted(digests) == ["cfg.json", "sae_weights.safetensors"]


def test_only_what_lies_directly_in_the_folder_is_downloaded(hub):
    assert hub["fetched"] == ["seed0/cfg.json", "seed0/sae_weights.safetensors"]


def test_a_tag_a_folder_with_brackets_and_a_single_file_are_found(hub):
    tagged, single = hub["rest"][:2]
    assert tagged["revision"] == COMMIT
    assert tagged["sum"] == pytest.approx(float(small_sae(1).W_dec.sum()), abs=1e-5)
    assert (single["format"], single["sum"], list(single["files"])) == ("array", 15.0, ["bare.npy"])


def test_what_the_hub_does_not_have_is_said(hub):
    missing, notes, revision, repo, name = hub["rest"][2:]
    assert missing.startswith(f"FileNotFoundError: hf://{REPO}@{COMMIT} has no missing; its folders are notes, seed0, ")
    assert notes.startswith(f"ValueError: hf://{REPO}/notes is in no known format. It holds README.md. Looked for:")
    assert revision.startswith(f"ValueError: the Hugging Face hub has no {REPO} at revision v9, or it is private")
    assert repo.startswith("ValueError: the Hugging Face hub has no someone/nothing at revision main, or it is private")
    assert name.startswith("ValueError: hf://not a name/x is no repository of the hub")


def test_without_a_network_the_cache_is_used_and_what_it_lacks_is_said(hub):
    cached, nested = hub["offline"]
    assert cached == hub["first"]
    assert nested.startswith(f"ConnectionError: cannot reach the Hugging Face hub for {REPO} at revision main (")
    assert "the cache does not hold all of it; check the network" in nested
    pinned, other = hub["gone"]
    assert pinned["sum"] == hub["first"]["sum"]
    assert other.startswith("ConnectionError: cannot reach the Hugging Face hub for someone/else at revision main (")


def test_a_local_folder_is_told_with_the_digests_of_the_files_that_were_read(tmp_path):
    save_sae(small_sae(), tmp_path / "sae")
    (tmp_path / "sae" / "training.parquet").write_bytes(b"not read")
    source = resolve(tmp_path / "sae")
    assert (source.format, source.repo, source.revision) == ("saelens", None, None)
    assert (source.location, source.path) == (str(tmp_path / "sae"), str((tmp_path / "sae").resolve()))
    assert sorted(source.files) == ["cfg.json", "sae_weights.safetensors"]
    weights = (tmp_path / "sae" / "sae_weights.safetensors").read_bytes()
    assert source.files["sae_weights.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert load_dictionary(tmp_path / "sae").source == source


def test_a_digest_follows_the_file(tmp_path):
    save_sae(small_sae(0), tmp_path)
    before = resolve(tmp_path).files
    save_sae(small_sae(1), tmp_path)
    after = resolve(tmp_path).files
    assert before["sae_weights.safetensors"] != after["sae_weights.safetensors"]
    assert before["cfg.json"] == after["cfg.json"]


def test_a_loaded_sae_does_not_follow_the_file(tmp_path):
    save_sae(small_sae(0), tmp_path)
    loaded = load_sae(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-400] + bytes(400))
    assert torch.equal(loaded.W_dec, small_sae(0).W_dec)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://bucket/sae", r"a location is a file or folder, or hf://owner/name@revision/folder"),
        ("hf://someone", r"names no repository: expected hf://owner/name\[@revision\]\[/folder\]"),
    ],
)
def test_a_location_of_another_kind_is_refused(location, message):
    with pytest.raises(ValueError, match=message):
        load_dictionary(location)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SAE file or folder .*missing; train the SAE first"):
        load_dictionary(tmp_path / "missing")
