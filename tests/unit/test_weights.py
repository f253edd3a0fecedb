"""Model folders: what counts as complete, and the real library against a hub of our own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.errors import ApplianceError
from appliance.weights import manifest
from appliance.weights.fetch import Progress, fetch
from appliance.weights.verify import ModelFolder, require_readable, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.fake_modelscope import FakeModelScope, Gate
else:  # pytest puts this folder on the path, whether or not the checkout's root is there
    from fake_modelscope import FakeModelScope, Gate

ROOT = Path(__file__).resolve().parents[2]
TINY_OMNI = ROOT / "models" / "tiny-omni"
MODEL = "someone/some-model"
BIG = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def shard(**tensors: int) -> bytes:
    """A safetensors file with tensors of the given sizes, in bytes."""
    header, end = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + os.urandom(end)


def model_files() -> dict[str, bytes]:
    """A model in two shards, the second of which is large."""
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": BIG, "c": BIG}
    return {
        "config.json": b'{"architectures": []}',
        "model-00001-of-00002.safetensors": shard(a=50_000),
        BIG: shard(b=3_000_000, c=1_000_000),
        INDEX: json.dumps({"weight_map": weight_map}).encode(),
        "sub/LICENSE": b"Do as you like.\n",
    }


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def total(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "models" / "m", model_files())


def refused(folder: Path, error_id: str, *, hashes: bool = False) -> str:
    """What `verify` says about a folder that it refuses with this error."""
    with pytest.raises(ApplianceError) as caught:
        verify(folder, hashes=hashes)
    assert caught.value.id == error_id
    return caught.value.message


# --- verify


def test_a_complete_folder_is_measured(folder: Path) -> None:
    files = model_files()
    assert verify(folder) == ModelFolder(folder, len(files), total(files))


@pytest.mark.skipif(not TINY_OMNI.is_dir(), reason="the checkout has no tiny-omni")
def test_the_shipped_model_is_complete() -> None:
    found = verify(TINY_OMNI)
    assert found.files == sum(path.is_file() for path in TINY_OMNI.rglob("*"))


@pytest.mark.parametrize("config", [None, b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_without_a_config_it_is_no_model(folder: Path, config: bytes | None) -> None:
    if config is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_bytes(config)
    assert "config.json" in refused(folder, "weights-missing")


def test_no_folder_is_no_model(tmp_path: Path) -> None:
    assert str(tmp_path / "no") in refused(tmp_path / "no", "weights-missing")


def test_a_shard_cut_short_is_named_with_its_bytes(folder: Path) -> None:
    size = (folder / BIG).stat().st_size
    os.truncate(folder / BIG, size - 1000)
    message = refused(folder, "weights-incomplete")
    assert f"{BIG}: {size - 1000} bytes there, {size} bytes expected" in message
    assert "00001" not in message


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_a_shard_cut_in_its_header_is_named(folder: Path, size: int) -> None:
    os.truncate(folder / BIG, size)
    assert f"{BIG}: {size} bytes there" in refused(folder, "weights-incomplete")


def test_a_shard_that_is_too_long_is_named(folder: Path) -> None:
    with (folder / BIG).open("ab") as file:
        file.write(b"x")
    assert BIG in refused(folder, "weights-incomplete")


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / BIG).unlink()
    assert f"{BIG}: missing" in refused(folder, "weights-incomplete")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    (folder / BIG).write_bytes(shard(b=10))
    assert f"{BIG}: lacks 1 tensors that the index names, as c" in refused(
        folder, "weights-incomplete"
    )


def test_an_unfinished_download_is_named_as_such(folder: Path) -> None:
    (folder / BIG).rename(folder / f"{BIG}.incomplete")
    message = refused(folder, "weights-incomplete")
    assert f"{BIG}: missing; {BIG}.incomplete is its unfinished download" in message


def test_a_leftover_beside_the_whole_file_does_not_matter(folder: Path) -> None:
    (folder / f"{BIG}.incomplete").write_bytes(b"x")
    verify(folder)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100_000_001) + b"{}",
        struct.pack("<Q", 0),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 13) + b'{"b": [1, 2]}',
        struct.pack("<Q", 30) + b'{"b": {"data_offsets":[0,1e999]}}'[:30],
    ],
)
def test_a_hostile_header_is_refused_at_once(folder: Path, header: bytes) -> None:
    with (folder / BIG).open("wb") as file:
        file.write(header)
        file.truncate(5_000_000_000)  # a hole: no bytes on the disk
    started = time.monotonic()
    assert BIG in refused(folder, "weights-incomplete")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}']
)
def test_an_index_that_is_none_is_named(folder: Path, index: bytes) -> None:
    (folder / INDEX).write_bytes(index)
    assert INDEX in refused(folder, "weights-incomplete")


@pytest.mark.parametrize("path", ["/etc/hostname", "../m/config.json"])
def test_an_index_can_not_name_other_files(folder: Path, path: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": path}}))
    assert "not a path inside the folder" in refused(folder, "weights-incomplete")


def test_weights_without_an_index(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": shard(a=10)}
    verify(put(tmp_path, files))
    (tmp_path / "model.safetensors").unlink()
    assert "no other weights" in refused(tmp_path, "weights-incomplete")


def test_a_gap_in_a_series_without_an_index_is_named(folder: Path) -> None:
    (folder / INDEX).unlink()
    verify(folder)
    (folder / BIG).unlink()
    assert f"{BIG}: missing" in refused(folder, "weights-incomplete")


def test_pytorch_weights(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}).encode()
    files = {"config.json": b"{}", "pytorch_model.bin.index.json": index}
    put(tmp_path, files)
    assert "pytorch_model-00001-of-00001.bin: missing" in refused(tmp_path, "weights-incomplete")
    put(tmp_path, {"pytorch_model-00001-of-00001.bin": b"x"})
    verify(tmp_path)


def test_all_problems_are_in_one_message_and_many_are_counted(folder: Path) -> None:
    weight_map = {f"t{n}": f"s{n:02}.safetensors" for n in range(12)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    message = refused(folder, "weights-incomplete")
    assert message.count("missing") == 10
    assert "and 2 files more" in message


def test_sixteen_large_shards_are_quick(tmp_path: Path) -> None:
    names = {f"model-{n:05}-of-00016.safetensors": n for n in range(1, 17)}
    weight_map: dict[str, str] = {}
    for name, number in names.items():
        tensors = {f"layers.{number}.{t}": 2_000_000 for t in range(2_000)}
        weight_map |= dict.fromkeys(tensors, name)
        offsets = {
            t: {"data_offsets": [i * 2_000_000, (i + 1) * 2_000_000]} for i, t in enumerate(tensors)
        }
        text = json.dumps(offsets).encode()
        with (tmp_path / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + 4_000_000_000)
    put(tmp_path, {"config.json": b"{}", INDEX: json.dumps({"weight_map": weight_map}).encode()})
    started = time.monotonic()
    assert verify(tmp_path).bytes > 64_000_000_000
    assert time.monotonic() - started < 3


# --- fetch


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModelScope]:
    """A hub with one model, and an environment in which the library finds it and no home."""
    for name in list(os.environ):
        if name.startswith("MODELSCOPE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "home" / "cache"))
    with FakeModelScope({MODEL: model_files()}) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.endpoint)
        yield server


def failed(model: str, target: Path, error_id: str) -> str:
    """What `fetch` says when it fails with this error."""
    with pytest.raises(ApplianceError) as caught:
        fetch(model, target, revision=None)
    assert caught.value.id == error_id
    return caught.value.message


def start_fetch(target: Path) -> subprocess.Popen[bytes]:
    """A fetch in another process."""
    code = (
        "import sys; from pathlib import Path; from appliance.weights.fetch import fetch;"
        "fetch(sys.argv[1], Path(sys.argv[2]), revision=None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, MODEL, str(target)], env=environment)


def test_a_model_is_fetched_with_progress_and_in_silence(
    hub: FakeModelScope, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files, target, seen = hub.models[MODEL], tmp_path / "cache" / "m", list[Progress]()
    found = fetch(MODEL, target, revision=None, on_progress=seen.append)
    assert found == ModelFolder(target, len(files), total(files))
    assert {name: (target / name).read_bytes() for name in files} == files
    assert seen[0] == Progress(0, total(files), "")
    assert seen[-1] == Progress(total(files), total(files), "")
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert {step.file for step in seen} == {"", *files}
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in target.parent.iterdir()) == [".m.lock", "m"]
    first_parts = {name.partition("/")[0] for name in files}
    assert {path.name for path in target.iterdir()} == {*first_parts, manifest.NAME}


def test_a_complete_folder_makes_no_request(hub: FakeModelScope, tmp_path: Path) -> None:
    found = fetch(MODEL, tmp_path / "m", revision=None)
    hub.requests.clear()
    assert fetch(MODEL, tmp_path / "m", revision=None) == found
    brought = put(tmp_path / "brought", model_files())
    assert fetch(MODEL, brought, revision=None) == verify(brought)
    assert not hub.requests
    assert not (tmp_path / ".brought.lock").exists()


def test_what_weights_do_not_need_is_fetched_again_too(hub: FakeModelScope, tmp_path: Path) -> None:
    fetch(MODEL, tmp_path / "m", revision=None)
    (tmp_path / "m" / "sub" / "LICENSE").unlink()
    assert "sub/LICENSE: missing" in refused(tmp_path / "m", "weights-incomplete")
    hub.served.clear()
    fetch(MODEL, tmp_path / "m", revision=None)
    assert [served.file for served in hub.served] == ["sub/LICENSE"]


def test_a_fetch_that_is_killed_is_resumed(hub: FakeModelScope, tmp_path: Path) -> None:
    target, files = tmp_path / "m", hub.models[MODEL]
    hub.gate = Gate(BIG, after=len(files[BIG]) // 2)
    process = start_fetch(target)
    try:
        assert hub.gate.reached.wait(10)
        partial = target / f"{BIG}.incomplete"
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if partial.exists() and partial.stat().st_size >= hub.gate.after:
                break
            time.sleep(0.01)
        # The first process still has the lock: nobody else writes to the folder.
        assert str(target) in failed(MODEL, target, "busy")
    finally:
        process.kill()
        process.wait()
    there = partial.stat().st_size
    assert there >= hub.gate.after
    hub.gate.opened.set()
    hub.gate = None
    deadline = time.monotonic() + 5  # for the hub to see that the first client is gone
    while not hub.bytes_served(BIG) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert f"{BIG}: missing; {BIG}.incomplete is its unfinished download ({there} bytes)" in (
        refused(target, "weights-incomplete")
    )

    hub.served.clear()
    seen: list[Progress] = []
    fetch(MODEL, target, revision=None, on_progress=seen.append)
    assert (target / BIG).read_bytes() == files[BIG]
    again = [served for served in hub.served if served.file == BIG]
    assert [(served.start, served.bytes) for served in again] == [(there, len(files[BIG]) - there)]
    assert seen[0].done_bytes >= there
    assert min(step.done_bytes for step in seen) == seen[0].done_bytes
    assert not [path for path in target.rglob("*") if path.suffix in {".incomplete", ".lock"}]


def test_a_file_that_takes_longer_than_the_library_allows_is_resumed(
    hub: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(hub.models[MODEL][BIG])
    hub.gate = Gate(BIG, after=size * 3 // 4)  # the second request asks for less than that
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_TOTAL_TIMEOUT", 0.7)
    fetch(MODEL, tmp_path / "m", revision=None)
    assert hub.gate.reached.is_set()
    verify(tmp_path / "m", hashes=True)
    assert [served.start for served in hub.served if served.file == BIG][-1] >= size // 2


def test_wrong_bytes_are_found_and_one_file_is_fetched_anew(
    hub: FakeModelScope, tmp_path: Path
) -> None:
    target = tmp_path / "m"
    fetch(MODEL, target, revision=None)
    with (target / BIG).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    verify(target)
    assert f"{BIG}: its bytes are not the hub's" in refused(
        target, "weights-incomplete", hashes=True
    )
    (target / BIG).unlink()
    hub.served.clear()
    fetch(MODEL, target, revision=None)
    assert {served.file for served in hub.served} == {BIG}
    verify(target, hashes=True)


def test_a_partial_file_of_wrong_bytes_is_not_accepted(hub: FakeModelScope, tmp_path: Path) -> None:
    files, target = hub.models[MODEL], tmp_path / "m"
    put(target, {f"{BIG}.incomplete": bytes(1_000_000)})
    seen: list[Progress] = []
    fetch(MODEL, target, revision=None, on_progress=seen.append)
    assert (target / BIG).read_bytes() == files[BIG]
    assert seen[-1].done_bytes == seen[-1].total_bytes == total(files)


def test_another_revision_is_fetched(hub: FakeModelScope, tmp_path: Path) -> None:
    fetch(MODEL, tmp_path / "m", revision=None)
    hub.models[MODEL]["sub/LICENSE"] = b"Ask first.\n"
    fetch(MODEL, tmp_path / "m", revision="v2")
    assert (tmp_path / "m" / "sub" / "LICENSE").read_bytes() == b"Ask first.\n"
    assert hub.bytes_served(BIG) == len(hub.models[MODEL][BIG])


def test_another_model_is_not_fetched_over_the_first(hub: FakeModelScope, tmp_path: Path) -> None:
    fetch(MODEL, tmp_path / "m", revision=None)
    hub.requests.clear()
    assert MODEL in failed("someone/another", tmp_path / "m", "weights-fetch-failed")
    assert not hub.requests


@pytest.mark.parametrize("model", ["someone/unknown", "none", "../../x/y", "a/b?c"])
def test_an_unknown_model(hub: FakeModelScope, tmp_path: Path, model: str) -> None:
    message = failed(model, tmp_path / "m", "weights-fetch-failed")
    assert model in message
    assert hub.endpoint in message
    assert "\n" not in message


def test_a_hub_that_is_down(
    hub: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://user:secret@{address}")
        # The library tries four times, in 7 s.
        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        message = failed(MODEL, tmp_path / "m", "weights-fetch-failed")
    assert f"{MODEL} could not be fetched from http://{address}: " in message
    assert "refused" in message
    assert "secret" not in message


def test_a_hub_that_lists_files_elsewhere(hub: FakeModelScope, tmp_path: Path) -> None:
    hub.extra_entries = [{"Path": "../out", "Type": "blob", "Size": 1}]
    assert "'../out'" in failed(MODEL, tmp_path / "m", "weights-fetch-failed")
    assert not hub.served


def test_a_file_that_the_hub_lists_and_has_not(hub: FakeModelScope, tmp_path: Path) -> None:
    hub.extra_entries = [{"Path": "gone.json", "Type": "blob", "Size": 1}]
    message = failed(MODEL, tmp_path / "m", "weights-fetch-failed")
    assert "gone.json: NotExistError" in message
    assert (tmp_path / "m" / BIG).exists()


def test_what_is_fetched_is_verified(hub: FakeModelScope, tmp_path: Path) -> None:
    del hub.models[MODEL][BIG]
    assert BIG in failed(MODEL, tmp_path / "m", "weights-incomplete")


def test_too_little_space_is_told_before_anything_is_fetched(
    hub: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=123_456)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = failed(MODEL, tmp_path / "m", "disk-full")
    assert f"({total(hub.models[MODEL])} bytes)" in message
    assert "(123456 bytes) are free" in message
    assert not hub.served


def test_a_disk_that_becomes_full(
    hub: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("modelscope_hub._download._finish_download", no_space)
    assert str(tmp_path / "m") in failed(MODEL, tmp_path / "m", "disk-full")


def test_two_fetches_at_once_in_one_process(hub: FakeModelScope, tmp_path: Path) -> None:
    hub.gate = Gate(BIG, after=100_000)
    first = threading.Thread(target=fetch, args=(MODEL, tmp_path / "m"), kwargs={"revision": None})
    first.start()
    assert hub.gate.reached.wait(10)
    failed(MODEL, tmp_path / "m", "busy")
    hub.gate.opened.set()
    first.join()
    assert verify(tmp_path / "m", hashes=True).bytes == total(hub.models[MODEL])


def test_a_folder_whose_parent_is_not_writable(
    hub: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # modes do not bind root
    target = tmp_path / "mounts" / "m"
    assert fetch(MODEL, target, revision=None).bytes == total(hub.models[MODEL])
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_a_folder_that_can_not_be_made(hub: FakeModelScope, tmp_path: Path) -> None:
    del hub
    (tmp_path / "file").write_bytes(b"")
    assert "file" in failed(MODEL, tmp_path / "file" / "m", "weights-fetch-failed")


def test_a_list_of_files_that_is_none_is_as_good_as_absent(folder: Path) -> None:
    for content in (b"", b"[]", b'{"files": 3}', b'{"files": {"a": {"size": null}}}'):
        (folder / manifest.NAME).write_bytes(content)
        assert manifest.read(folder) is None
        verify(folder)


def test_a_folder_that_the_container_could_not_read_is_refused(tmp_path: Path) -> None:
    """Its root has no capabilities: the owner's own rights are of no use to it."""
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "config.json"
    file.write_text("{}", encoding="utf-8")
    require_readable(folder)
    file.chmod(0o600)
    os.chown(file, 1000, 1000)
    with pytest.raises(ApplianceError, match=r"config\.json") as refused:
        require_readable(folder)
    assert refused.value.id == "weights-unreadable"
    assert "chmod -R o+rX" in refused.value.remedy


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """As in a hub's cache of snapshots: only the folder itself is mounted."""
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    folder.mkdir()
    blobs.mkdir()
    (blobs / "1").write_text("{}", encoding="utf-8")
    (folder / "inner.json").write_text("{}", encoding="utf-8")
    (folder / "link.json").symlink_to("inner.json")
    require_readable(folder)
    (folder / "config.json").symlink_to(blobs / "1")
    with pytest.raises(ApplianceError, match="outside of the folder"):
        require_readable(folder)
