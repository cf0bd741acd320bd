"""Tensors of a storage are stored once by content, on folders and on object stores."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from orchestrator.cli.main import main
from orchestrator.store.collection import collect
from orchestrator.store.filesystem import LocalBackend
from orchestrator.store.manifest import Computed, checksum
from orchestrator.store.result_cache import result_cache_of
from orchestrator.store.shared_tensors import DamagedError, fetch, is_damaged, path_of, share
from orchestrator.store.stage_store import StageStore
from trainables.artifacts import Backbone, Evaluation, save_artifact

LARGE = 64 * 64 * 4  # bytes of a weight below
TRUNK = {"trunk": Backbone}
DAY = 24 * 3600.0


def trunk(seed: int = 0, architecture: str = "fastnet") -> Backbone:
    draws = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(64, 64, generator=draws) for name in ("first", "second")}
    state["bias"] = torch.arange(4.0)  # too small to be shared
    return Backbone(architecture, 8, 64, "", state)


class Storage:
    """A storage as a new process sees it, with what is asked of its files."""

    def __init__(self, filesystem: FileSystem | None, root: str) -> None:
        self.filesystem, self.root = filesystem, root

    def open(self) -> StageStore:
        store = StageStore(self.root, filesystem=self.filesystem)
        result_cache_of(store.backend.uri).clear()
        return store

    def put(self, key: str, artifact: Any, outputs: dict[str, type] = TRUNK) -> Any:
        """Return a result that is computed if it is not stored, and the trunk in it."""
        return self.open().get_or_compute(
            "classify", key, outputs, lambda f: Computed({"trunk": artifact}, [])
        )

    def tensors(self) -> list[str]:
        return sorted(entry.name for entry in self.open().backend.entries("tensors"))

    def stored_bytes(self) -> int:
        return sum(entry.size for entry in self.open().backend.entries("tensors"))


@pytest.fixture(params=["path", "memory", "pyarrow folder"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "path":
        return Storage(None, str(tmp_path / "runs"))
    if request.param == "memory":
        return Storage(FileSystem.from_uri("mock:///")[0], "bucket")
    return Storage(SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "bucket")


def equal(one: Backbone, other: Backbone) -> bool:
    same = all(torch.equal(one.state[k], other.state[k]) for k in one.state)
    return same and one.state.keys() == other.state.keys() and one[:4] == other[:4]


def test_the_same_weights_are_stored_once(storage: Storage) -> None:
    first = storage.put("a", trunk())
    second = storage.put("b", trunk())
    assert equal(first.artifacts["trunk"], trunk())
    assert equal(second.artifacts["trunk"], trunk())
    assert first.digests == second.digests
    assert len(storage.tensors()) == 2
    assert storage.stored_bytes() < 2 * LARGE + 1000
    assert equal(storage.put("b", trunk(1)).artifacts["trunk"], trunk())  # read, not computed


def test_what_two_artifacts_share_is_stored_once(storage: Storage) -> None:
    """Of a trunk whose last layer alone was trained, the first is stored once."""
    storage.put("a", trunk())
    tuned = trunk()
    tuned.state["second"].add_(1.0)
    storage.put("b", tuned)
    assert len(storage.tensors()) == 3
    arrays = {"features": trunk().state["first"]}  # the same numbers in an artifact of another kind
    storage.put("c", Evaluation({}, arrays), {"trunk": Evaluation})
    assert len(storage.tensors()) == 3


def test_shape_and_type_are_part_of_the_content(storage: Storage) -> None:
    zeros = torch.zeros(64, 64)
    states = [zeros, zeros.reshape(32, 128), zeros.to(torch.int32), zeros.bfloat16()]
    for number, tensor in enumerate(states):
        artifact = Backbone("x", 8, 64, "", {"w": tensor})
        found = storage.put(str(number), artifact).artifacts["trunk"].state["w"]
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
    assert len(storage.tensors()) == len(states)


def test_a_damaged_tensor_is_set_aside_and_computed_again(storage: Storage) -> None:
    storage.put("a", trunk())
    storage.put("b", trunk())
    name = storage.tensors()[0]
    damage(storage, name)
    found = storage.put("a", trunk())
    assert not found.reused
    assert equal(found.artifacts["trunk"], trunk())
    # the result that shares the tensor is whole again
    assert storage.put("b", trunk(1)).reused
    assert len(storage.tensors()) == 2
    assert len(storage.open().backend.entries("damaged/tensors")) == 1


def test_a_tensor_that_was_damaged_before_does_not_harm_a_new_result(storage: Storage) -> None:
    storage.put("a", trunk())
    damage(storage, storage.tensors()[0])
    found = storage.put("b", trunk())
    assert not found.reused
    assert equal(found.artifacts["trunk"], trunk())
    assert storage.put("a", trunk(1)).reused


def test_a_missing_tensor_is_computed_again(storage: Storage) -> None:
    storage.put("a", trunk())
    storage.open().backend.remove_file(f"tensors/{storage.tensors()[0]}")
    assert storage.open().find("classify", "a", TRUNK) is None
    assert not storage.put("a", trunk()).reused
    assert storage.put("a", trunk()).reused


def damage(storage: Storage, name: str) -> None:
    """Change a byte of a shared tensor; its size stays."""
    backend = storage.open().backend
    content = bytearray(backend.read(f"tensors/{name}") or b"")
    content[-1] ^= 1
    backend.remove_file(f"tensors/{name}")
    backend.put(f"tensors/{name}", bytes(content))


def test_collection_removes_what_no_result_refers_to(storage: Storage) -> None:
    storage.put("a", trunk())
    storage.put("b", trunk(1))
    shared = trunk(1)
    shared.state["first"] = trunk().state["first"]
    storage.put("c", shared)
    backend = storage.open().backend
    backend.remove("stages/classify/b")
    assert collect(backend).removed == 0  # younger than a day
    found = collect(backend, grace_seconds=-1.0)
    assert (found.removed, found.kept) == (1, 3)
    assert found.removed_bytes > LARGE
    assert storage.put("a", trunk(2)).reused
    assert storage.put("c", trunk(2)).reused
    backend.remove("stages/classify/a")
    assert collect(backend, grace_seconds=-1.0).removed == 1  # "first" is still needed
    assert storage.put("c", trunk(2)).reused


def test_a_tensor_that_is_used_again_counts_as_new(tmp_path: Path) -> None:
    storage = Storage(None, str(tmp_path))
    storage.put("a", trunk())
    old = time.time() - 2 * DAY
    for name in storage.tensors():
        os.utime(tmp_path / "tensors" / name, (old, old))
    backend = storage.open().backend
    backend.remove("stages/classify/a")
    storage.put("b", trunk())
    backend.remove("stages/classify/b")  # as if its manifest were not written yet
    assert collect(backend).removed == 0
    for name in storage.tensors():
        os.utime(tmp_path / "tensors" / name, (old, old))
    assert collect(backend).removed == 2


def test_a_tensor_of_another_user_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a share, the time of a file of somebody else cannot be set."""
    storage = Storage(None, str(tmp_path))
    storage.put("a", trunk())

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refuse)
    assert equal(storage.put("b", trunk()).artifacts["trunk"], trunk())
    assert len(storage.tensors()) == 2


def test_a_draft_of_the_killed_is_collected(tmp_path: Path) -> None:
    storage = Storage(None, str(tmp_path))
    storage.put("a", trunk())
    draft = tmp_path / "tensors" / "tmp-x-dead"
    draft.write_bytes(b"half")
    os.utime(draft, (0, 0))
    assert collect(LocalBackend(tmp_path)).removed == 1
    assert not draft.exists()


def test_the_command_says_what_it_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(None, str(tmp_path))
    storage.put("a", trunk())
    storage.put("b", trunk(1))
    storage.open().backend.remove("stages/classify/b")
    for name in storage.tensors():
        os.utime(tmp_path / "tensors" / name, (0, 0))
    for words, status, text in (
        (
            ["--storage", str(tmp_path)],
            0,
            "removed 2 tensors (0.0 MB); 2 tensors (0.0 MB) are in use",
        ),
        (
            ["--storage", str(tmp_path / "none")],
            2,
            "error: --storage: there are no stage results in",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            main(["clean", *words])
        assert (left.value.code or 0) == status
        assert text in "".join(capsys.readouterr())
    assert storage.put("a", trunk(1)).reused


def test_collection_stops_at_a_newer_format(tmp_path: Path) -> None:
    storage = Storage(None, str(tmp_path))
    storage.put("a", trunk())
    path = tmp_path / "stages" / "classify" / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="use the version that wrote"):
        collect(LocalBackend(tmp_path), grace_seconds=-1.0)
    assert len(storage.tensors()) == 2


def test_a_result_of_the_format_before_is_read(tmp_path: Path) -> None:
    storage = Storage(None, str(tmp_path))
    folder = tmp_path / "stages" / "classify" / "a"
    storage.put("a", trunk())
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = save_artifact(trunk(), folder / "trunk")  # all tensors in the result's folder
    assert digest == manifest["artifacts"]["trunk"]
    manifest["files"] = {name: checksum(folder / name) for name in manifest["files"]}
    manifest["format_version"] = 1
    del manifest["tensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = storage.put("a", trunk(1))
    assert found.reused
    assert equal(found.artifacts["trunk"], trunk())


def test_an_interrupted_upload_is_written_again(storage: Storage) -> None:
    storage.put("a", trunk())
    name = storage.tensors()[0]
    backend = storage.open().backend
    content = backend.read(f"tensors/{name}") or b""
    backend.remove_file(f"tensors/{name}")
    backend.put(f"tensors/{name}", content[:100])
    found = storage.put("b", trunk())
    assert equal(found.artifacts["trunk"], trunk())
    assert backend.read(f"tensors/{name}") == content
    assert backend.entries("damaged/tensors") == []  # it is replaced, not found to be damaged


def test_large_tensors_are_stored_under_the_digest_of_their_file(tmp_path: Path) -> None:
    stored: dict[str, bytes] = {}
    tensors = {
        "large": torch.ones(1024),  # 4 KiB
        "same": torch.ones(1024),
        "small": torch.ones(1023),
        "other": torch.zeros(1024),
    }
    names = share(tensors, stored.__setitem__)
    assert set(names) == {"large", "same", "other"}
    assert names["large"] == names["same"] != names["other"]
    assert set(stored) == {path_of(name) for name in names.values()}
    for path, content in stored.items():
        assert path == f"tensors/{hashlib.sha256(content).hexdigest()}"
    backend = LocalBackend(tmp_path)
    for path, content in stored.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    found = fetch(backend, names)
    assert all(torch.equal(found[name], tensors[name]) for name in names)
    (tmp_path / path_of(names["other"])).write_bytes(b"another content")
    assert is_damaged(backend, names["other"])
    assert not is_damaged(backend, names["large"])
    with pytest.raises(DamagedError, match="1 shared tensors") as caught:
        fetch(backend, names)
    assert caught.value.tensors == (names["other"],)
    (tmp_path / path_of(names["other"])).unlink()
    assert not is_damaged(backend, names["other"])  # it is missing
    with pytest.raises(DamagedError) as caught:
        fetch(backend, names)
    assert caught.value.tensors == ()
