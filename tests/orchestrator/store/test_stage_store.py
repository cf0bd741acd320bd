"""The stage store: computed once, whatever happens to those who compute."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem
from torch import Tensor

from orchestrator.store.leases import FileLeases
from orchestrator.store.manifest import Computed
from orchestrator.store.result_cache import ResultCache, result_cache_of
from orchestrator.store.stage_store import StageStore
from trainables.errors import ConfigError

SPAWN = multiprocessing.get_context("spawn")
KEY = "a" * 64


class Thing(NamedTuple):
    """An artifact."""

    name: str
    values: Tensor


class Other(NamedTuple):
    """Another artifact."""

    state: dict[str, Tensor]
    size: int = 3


OUTPUTS = {"thing": Thing, "other": Other}


def result(value: float = 1.0) -> Computed:
    return Computed(
        {"thing": Thing("x", torch.full((3,), value)), "other": Other({"w": torch.eye(2)})},
        [{"epoch": 0.0, "loss": 0.5}, {"epoch": 1.0, "loss": float("nan")}],
    )


class Counting:
    """A computation that counts its calls in a file, so that processes can share it."""

    def __init__(self, log: Path, wait: float = 0.0) -> None:
        self.log, self.wait = log, wait

    def __call__(self, folder: Path) -> Computed:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "checkpoint").write_text("half")
        time.sleep(self.wait)
        return result()

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def folder(storage: Path) -> Path:
    return storage / "stages" / "classify" / KEY


def fresh(storage: str | Path) -> StageStore:
    """A store as another process would see it: without memory."""
    result_cache_of(str(storage)).clear()
    return StageStore(str(storage))


def test_a_result_is_computed_once_and_comes_back_equal(tmp_path: Path) -> None:
    compute = Counting(tmp_path / "log")
    store = fresh(tmp_path / "runs")
    first = store.get_or_compute("classify", KEY, OUTPUTS, compute)
    second = fresh(tmp_path / "runs").get_or_compute("classify", KEY, OUTPUTS, compute)
    assert compute.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.digests == second.digests
    assert first.seconds == second.seconds > 0
    assert second.history[0] == {"epoch": 0.0, "loss": 0.5}
    assert second.key == KEY
    assert torch.equal(second.artifacts["thing"].values, torch.ones(3))
    assert torch.equal(second.artifacts["other"].state["w"], torch.eye(2))
    assert set(first.digests) == {"thing", "other"}


@pytest.mark.parametrize("what", ["a file", "a folder as manifest", "a broken link"])
def test_something_else_in_place_of_a_result_is_set_aside(tmp_path: Path, what: str) -> None:
    place = folder(tmp_path)
    place.parent.mkdir(parents=True)
    if what == "a file":
        place.write_text("no folder")
    elif what == "a folder as manifest":
        (place / "manifest.json").mkdir(parents=True)
    else:
        place.symlink_to("/nowhere")
    store = fresh(tmp_path)
    stored = store.get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    assert (stored.reused, store.stats().damaged) == (False, 1)
    assert len(list((tmp_path / "damaged" / "classify").iterdir())) == 1
    assert fresh(tmp_path).find("classify", KEY, OUTPUTS) is not None


def test_the_layout_is_as_documented(tmp_path: Path) -> None:
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    files = {str(p.relative_to(folder(tmp_path))) for p in folder(tmp_path).rglob("*.*")}
    parts = ("artifact.json", "tensors.safetensors")
    assert files == {f"{name}/{part}" for name in OUTPUTS for part in parts} | {"manifest.json"}
    manifest = json.loads((folder(tmp_path) / "manifest.json").read_text())
    assert manifest["format_version"] == 2
    assert (manifest["stage"], manifest["key"]) == ("classify", KEY)
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert list((tmp_path / "stages" / "classify").iterdir()) == [folder(tmp_path)]
    assert list((tmp_path / "scratch").rglob("checkpoint")) == []


def test_file_uri_and_path_are_the_same_place(tmp_path: Path) -> None:
    compute = Counting(tmp_path / "log")
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, compute)
    StageStore(tmp_path.as_uri()).get_or_compute("classify", KEY, OUTPUTS, compute)
    assert compute.calls == 1


def test_memory_spares_reading(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    store.get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    again = StageStore(str(tmp_path))
    found = again.get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    assert again.stats().from_memory == 1
    found.artifacts["thing"].values.add_(1)  # a fault of the caller
    read = again.get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    assert torch.equal(read.artifacts["thing"].values, torch.ones(3))
    assert again.stats().from_memory == 1


def test_stats_say_what_was_asked_for(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    for key in ("a", "b", "a", "a"):
        store.get_or_compute("classify", key, OUTPUTS, Counting(tmp_path / "log", wait=0.01))
    stats = store.stats()
    assert (stats.asked, stats.computed, stats.reused, stats.damaged) == (4, 2, 2, 0)
    assert stats.seconds_saved >= 0.02
    assert stats.seconds_computed >= 0.02


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("thing/tensors.safetensors", truncate),
        ("thing/tensors.safetensors", flip),
        ("other/artifact.json", Path.unlink),
        ("manifest.json", truncate),
        ("manifest.json", Path.unlink),
        ("manifest.json", lambda path: path.write_text("{}")),
    ],
)
def test_a_damaged_result_is_set_aside_and_computed_again(
    tmp_path: Path, name: str, harm: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    compute = Counting(tmp_path / "log")
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, compute)
    harm(folder(tmp_path) / name)
    store = fresh(tmp_path)
    found = store.get_or_compute("classify", KEY, OUTPUTS, compute)
    assert torch.equal(found.artifacts["thing"].values, torch.ones(3))
    assert compute.calls == 2
    assert store.stats().damaged == 1
    assert len(list((tmp_path / "damaged" / "classify").iterdir())) == 1
    assert "is damaged" in caplog.text
    assert fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, compute).reused


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    path = folder(tmp_path) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="use the version that wrote the result"):
        fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    assert path.exists()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_failure_frees_the_lease_and_keeps_the_scratch(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def fail(scratch: Path) -> Computed:
        (scratch / "checkpoint").write_text("epoch 3")
        raise error

    seen = []

    def resume(scratch: Path) -> Computed:
        seen.append((scratch / "checkpoint").read_text())
        return result()

    store = fresh(tmp_path)
    with pytest.raises(error):
        store.get_or_compute("classify", KEY, OUTPUTS, fail)
    assert list((tmp_path / "leases").rglob("*.lease")) == []
    store.get_or_compute("classify", KEY, OUTPUTS, resume)
    assert seen == ["epoch 3"]
    assert not (tmp_path / "scratch" / "classify" / KEY).exists()


def test_other_artifacts_than_promised_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 'classify' must return"):
        fresh(tmp_path).get_or_compute("classify", KEY, {"thing": Other}, lambda f: result())
    assert not folder(tmp_path).exists()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden"])
def test_names_cannot_leave_the_storage(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a stage and its key"):
        fresh(tmp_path).get_or_compute("classify", name, OUTPUTS, lambda f: result())


def test_an_unknown_storage_is_one_line() -> None:
    with pytest.raises(ConfigError, match="cannot open 'nowhere://x'"):
        StageStore("nowhere://x")


def work(storage: str, log: str, wait: float, answers: Any) -> None:
    """What a process does in the tests below."""
    found = StageStore(storage).get_or_compute("classify", KEY, OUTPUTS, Counting(Path(log), wait))
    answers.put((found.reused, found.digests["thing"]))


def test_of_six_processes_one_computes(tmp_path: Path) -> None:
    answers: Any = SPAWN.Queue()
    arguments = (str(tmp_path / "runs"), str(tmp_path / "log"), 1.0, answers)
    processes = [SPAWN.Process(target=work, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(reused for reused, _ in got) == [False, *[True] * 5]
    assert len({digest for _, digest in got}) == 1
    assert Counting(tmp_path / "log").calls == 1


def test_when_the_owner_is_killed_another_takes_over(tmp_path: Path) -> None:
    log, answers = tmp_path / "log", SPAWN.Queue()
    owner = SPAWN.Process(target=work, args=(str(tmp_path), str(log), 100.0, answers))
    owner.start()
    while not log.exists():
        time.sleep(0.05)
    waiter = SPAWN.Process(target=work, args=(str(tmp_path), str(log), 0.0, answers))
    waiter.start()
    time.sleep(1.0)
    assert Counting(log).calls == 1
    os.kill(owner.pid or 0, signal.SIGKILL)
    reused, _ = answers.get(timeout=60)
    assert not reused
    assert Counting(log).calls == 2
    for process in (owner, waiter):
        process.join()


def test_drafts_of_the_killed_are_removed(tmp_path: Path) -> None:
    draft = folder(tmp_path).with_name(f"tmp-{KEY}-dead")
    draft.mkdir(parents=True)
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    assert not draft.exists()


def test_a_result_that_another_published_meanwhile_is_used(tmp_path: Path) -> None:
    def slow(scratch: Path) -> Computed:
        other = fresh(tmp_path / "copy").get_or_compute(
            "classify", KEY, OUTPUTS, lambda f: result(2.0)
        )
        assert not other.reused
        folder(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        folder(tmp_path / "copy").rename(folder(tmp_path))
        return result(1.0)

    found = fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, slow)
    assert torch.equal(found.artifacts["thing"].values, torch.full((3,), 2.0))


class TestOtherFileSystems:
    @pytest.fixture(params=["memory", "folder"])
    def filesystem(self, request: pytest.FixtureRequest, tmp_path: Path) -> FileSystem:
        if request.param == "memory":
            found, _ = FileSystem.from_uri("mock:///")
            return found
        return SubTreeFileSystem(str(tmp_path), LocalFileSystem())

    def store(self, filesystem: FileSystem, root: str) -> StageStore:
        result_cache_of(f"{filesystem.type_name}:{root}").clear()
        return StageStore(root, filesystem=filesystem)

    def test_a_result_is_found_again(self, filesystem: FileSystem, tmp_path: Path) -> None:
        compute = Counting(tmp_path / "log")
        first = self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute)
        second = self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute)
        assert compute.calls == 1
        assert second.reused
        assert first.digests == second.digests
        assert torch.equal(second.artifacts["thing"].values, torch.ones(3))

    def test_damage_is_set_aside(self, filesystem: FileSystem, tmp_path: Path) -> None:
        compute = Counting(tmp_path / "log")
        self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute)
        path = f"bucket/stages/score/{KEY}/thing/tensors.safetensors"
        with filesystem.open_output_stream(path) as stream:
            stream.write(b"short")
        store = self.store(filesystem, "bucket")
        assert not store.get_or_compute("score", KEY, OUTPUTS, compute).reused
        assert store.stats().damaged == 1
        assert (
            self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute).reused
        )

    def test_an_upload_without_manifest_is_no_result(
        self, filesystem: FileSystem, tmp_path: Path
    ) -> None:
        compute = Counting(tmp_path / "log")
        self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute)
        filesystem.delete_file(f"bucket/stages/score/{KEY}/manifest.json")
        found = self.store(filesystem, "bucket").get_or_compute("score", KEY, OUTPUTS, compute)
        assert not found.reused
        assert compute.calls == 2


def test_a_uri_of_pyarrow_is_opened(tmp_path: Path) -> None:
    store = StageStore("mock:///bucket/runs")
    result_cache_of("mock:///bucket/runs").clear()
    assert not store.backend.local
    assert not store.get_or_compute("score", KEY, OUTPUTS, lambda f: result()).reused
    result_cache_of("mock:///bucket/runs").clear()
    assert store.get_or_compute("score", KEY, OUTPUTS, lambda f: result()).reused


def test_memory_forgets_what_was_unused_for_longest() -> None:
    memory = ResultCache(limit=3 * (1024 + 400))
    for name in "abc":
        memory.put(name, torch.zeros(100))
    assert memory.get("a") is not None
    memory.put("d", {"x": [torch.zeros(100)]})
    assert memory.get("b") is None
    assert memory.get("a") is not None
    assert memory.size == 3 * (1024 + 400)
    memory.put("huge", torch.zeros(10_000))
    assert memory.get("huge") is None


def test_reading_a_stored_result_asks_for_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result())
    monkeypatch.setattr(FileLeases, "try_acquire", lambda *_: pytest.fail("asked for a lease"))
    assert fresh(tmp_path).get_or_compute("classify", KEY, OUTPUTS, lambda f: result()).reused
