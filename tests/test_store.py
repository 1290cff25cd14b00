import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from upath import UPath

from sae_core import store as store_module
from sae_core.store import MANIFEST, ArtifactStore, StoreError, require_free_space
from sae_core.stored_files import verify


def write(text="hello", name="a.txt"):
    def build(folder):
        (folder / name).write_text(text)
        return {"length": len(text)}

    return build


def make(store, build=None, kind="thing", inputs=None, upstream=None, code_version="1"):
    return store.get_or_build(
        kind, build or write(), code_version=code_version, inputs=inputs or {"x": 1}, upstream=upstream
    )


def refuse_to_build(folder):
    raise AssertionError("a cache hit must not build")


def test_the_second_request_is_a_cache_hit_and_builds_nothing(store):
    first = make(store)
    second = make(store, refuse_to_build)
    assert (first.cache_hit, second.cache_hit) == (False, True)
    assert second.path == first.path
    assert second.summary == {"length": 5}
    assert (second.path / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("change", [{"inputs": {"x": 2}}, {"code_version": "2"}, {"kind": "other"}])
def test_another_input_code_version_or_kind_is_another_artifact(store, change):
    assert make(store, **change).path != make(store).path


def test_the_order_of_inputs_does_not_matter(store):
    first = make(store, inputs={"a": 1, "b": 2})
    assert make(store, refuse_to_build, inputs={"b": 2, "a": 1}).path == first.path


def test_an_upstream_of_other_content_is_another_artifact_and_one_of_equal_content_is_not(store):
    up = make(store, write("one"), kind="up", inputs={"n": 1})
    same = make(store, write("one"), kind="up", inputs={"n": 2})
    other = make(store, write("two"), kind="up", inputs={"n": 3})
    down = make(store, kind="down", upstream={"up": up})
    assert make(store, refuse_to_build, kind="down", upstream={"up": same}).path == down.path
    assert make(store, kind="down", upstream={"up": other}).path != down.path
    assert store.upstream(down)["up"].path == up.path


def test_private_files_and_time_do_not_change_the_content_digest(store):
    def build(seconds):
        def timed(folder):
            (folder / "a.txt").write_text("hello")
            (folder / "_timing.txt").write_text(seconds)
            return {}

        return timed

    first = make(store, build("1"), inputs={"n": 1})
    second = make(store, build("2"), inputs={"n": 2})
    assert first.content == second.content
    assert verify(second) == []


def test_a_failed_build_leaves_no_artifact_and_keeps_its_files_for_the_next_try(store):
    def fails(folder):
        (folder / "part.txt").write_text("done")
        raise ValueError("stopped")

    def resumes(folder):
        assert (folder / "part.txt").read_text() == "done"
        return {}

    with pytest.raises(ValueError, match="stopped"):
        make(store, fails)
    assert list(store.artifacts()) == []
    assert not make(store, resumes).cache_hit


def test_a_build_killed_at_any_moment_is_resumed(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from sae_core.store import ArtifactStore
        def build(folder):
            (folder / "part.txt").write_text("done")
            print("written", flush=True)
            time.sleep(60)
        ArtifactStore(sys.argv[1]).get_or_build("thing", build, code_version="1", inputs={"x": 1})
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "written"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def resumes(folder):
        assert (folder / "part.txt").read_text() == "done"
        return {"resumed": True}

    assert make(ArtifactStore(tmp_path), resumes).summary == {"resumed": True}


def _count_builds(root, counter):
    def build(folder):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.3)
        (folder / "a.txt").write_text("hello")
        return {}

    make(ArtifactStore(root), build)


def test_two_writers_of_the_same_key_build_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    writers = [context.Process(target=_count_builds, args=(tmp_path, counter)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert counter.value == 1


def test_verify_names_files_that_were_altered_removed_or_added(store):
    artifact = make(store)
    (artifact.path / "a.txt").write_text("hellO")
    (artifact.path / "b.txt").write_text("new")
    digest, was = (hashlib.sha256(text).hexdigest()[:12] for text in (b"hellO", b"hello"))
    assert verify(artifact) == [f"a.txt has sha256 {digest}, expected {was}", "b.txt is not in the manifest"]
    (artifact.path / "a.txt").unlink()
    assert verify(artifact) == ["a.txt is missing", "b.txt is not in the manifest"]


def test_verify_looks_at_a_remote_store_and_not_at_the_copy_here(tmp_path):
    remote = ArtifactStore("memory://verify-test", scratch=tmp_path)
    made = make(remote)
    assert (made.path / "a.txt").read_text() == "hello"  # copied here
    folder = UPath(made.url)
    assert verify(made) == []
    (folder / "a.txt").write_text("hellO")
    (folder / "more").mkdir()
    (folder / "more" / "b.txt").write_text("new")
    altered, added = verify(made)
    assert altered.startswith("a.txt has sha256")
    assert added == "more/b.txt is not in the manifest"


def test_opening_an_artifact_checks_the_content_that_is_expected(store):
    artifact = make(store)
    assert store.open(artifact.url, artifact.content).path == artifact.path
    with pytest.raises(StoreError, match=r"expected 000000000000.*materialize"):
        store.open(artifact.url, "0" * 64)
    with pytest.raises(StoreError, match="no artifact in .*moved or cleaned; materialize its asset again"):
        store.open(store.root / "thing" / "nothing")


def test_an_artifact_of_a_newer_format_version_is_refused(store):
    artifact = make(store)
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    (artifact.path / MANIFEST).write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(StoreError, match="format version 99, this version of sae-concord reads up to 1; upgrade"):
        make(store)


def test_a_broken_manifest_is_an_error_and_not_a_miss(store):
    artifact = make(store)
    (artifact.path / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="is not a manifest .*delete the folder and materialize again"):
        make(store)


def test_a_full_disk_is_said_and_nothing_written_is_lost(store):
    def full(folder):
        (folder / "part.txt").write_text("done")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"is full; free some space .*resumes there") as raised:
        make(store, full)
    assert raised.value.errno == errno.ENOSPC
    assert make(store, lambda folder: {"kept": (folder / "part.txt").exists()}).summary == {"kept": True}


def test_a_disk_that_is_too_small_is_refused_before_work(tmp_path):
    require_free_space(tmp_path, 1000, "this")
    with pytest.raises(OSError, match=r"this needs 1000000000\.00 GB, but .* GB free; .*SAE_CONCORD_STORE") as raised:
        require_free_space(tmp_path, 10**18, "this")
    assert raised.value.errno == errno.ENOSPC


def test_a_remote_store_holds_the_same_artifacts_and_commits_the_manifest_last(tmp_path, monkeypatch):
    remote = ArtifactStore("memory://sae-concord-test", scratch=tmp_path / "scratch")
    local = ArtifactStore(tmp_path / "local")
    made = make(remote)
    assert made.content == make(local).content
    assert (made.path / "a.txt").read_text() == "hello"
    assert (UPath("memory://sae-concord-test/thing") / made.manifest.fingerprint / MANIFEST).exists()
    elsewhere = ArtifactStore("memory://sae-concord-test", scratch=tmp_path / "another machine")
    assert make(elsewhere, refuse_to_build).cache_hit
    assert [artifact.content for artifact in elsewhere.artifacts()] == [made.content]


def test_the_manifest_tells_what_made_it(store):
    manifest = make(store).manifest
    assert manifest.inputs == {"x": 1}
    assert {"python", "torch", "git_commit"} <= set(manifest.environment)
    assert manifest.files["a.txt"].size == 5


def test_environment_is_read_once():
    assert store_module._environment() is store_module._environment()
