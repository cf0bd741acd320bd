from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.tracking.tracking_queue import Entry, QueueReader, QueueWriter


def pending(spool: QueueWriter, acknowledged: int = 0) -> list[Entry]:
    """Return what a sender that starts now would send; let it acknowledge the first ones."""
    reader = QueueReader(spool.folder)
    found = reader.pending()
    if acknowledged:
        reader.acknowledge(found[acknowledged - 1].end)
    spool.acknowledged(reader.position)
    reader.close()
    return found


def ops(spool: QueueWriter, acknowledged: int = 0) -> list[object]:
    return [entry.document["n"] for entry in pending(spool, acknowledged)]


def put(spool: QueueWriter, *numbers: int) -> None:
    for number in numbers:
        spool.append({"n": number})


def test_entries_come_back_in_order_until_acknowledged(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    put(spool, 1, 2, 3)
    assert ops(spool, acknowledged=2) == [1, 2, 3]
    assert not spool.empty
    assert ops(spool, acknowledged=1) == [3]
    assert spool.empty
    spool.close()


def test_next_process_finds_what_was_not_acknowledged(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    put(spool, 1, 2)
    pending(spool, acknowledged=1)
    spool.close()
    again = QueueWriter(tmp_path)
    assert ops(again) == [2]
    again.close()


def test_spool_whose_entries_all_arrived_starts_anew(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    put(spool, 1)
    pending(spool, acknowledged=1)
    spool.close()
    assert (tmp_path / "entries.jsonl").stat().st_size == 0
    again = QueueWriter(tmp_path)
    put(again, 2)
    assert ops(again) == [2]
    again.close()


def test_killed_process_loses_no_entry(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from orchestrator.tracking.tracking_queue import QueueWriter\n"
        "spool = QueueWriter(Path(sys.argv[1]))\n"
        "for n in range(500): spool.append({'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -9
    spool = QueueWriter(tmp_path)
    assert ops(spool) == list(range(500))
    spool.close()


def test_half_written_line_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "entries.jsonl").write_bytes(b'{"n":1}\n{"n":2')
    spool = QueueWriter(tmp_path)
    put(spool, 3)
    assert ops(spool) == [1, 3]
    spool.close()


def test_file_without_any_whole_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "entries.jsonl").write_bytes(b'{"n":1')
    spool = QueueWriter(tmp_path)
    assert pending(spool) == []
    assert spool.empty
    spool.close()


def test_damaged_line_is_skipped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "entries.jsonl").write_bytes(b'{"n":1}\n\x00\x00oops\n{"n":2}\n')
    spool = QueueWriter(tmp_path)
    documents = [entry.document for entry in pending(spool)]
    assert documents == [{"n": 1}, {"op": "unreadable"}, {"n": 2}]
    assert "unreadable entry skipped" in caplog.text
    spool.close()


@pytest.mark.parametrize("content", ["", "words", "999999"])
def test_damaged_or_outlived_position_sends_everything_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "entries.jsonl").write_bytes(b'{"n":1}\n')
    (tmp_path / "acknowledged").write_text(content)
    spool = QueueWriter(tmp_path)
    assert ops(spool) == [1]
    spool.close()


def test_what_an_earlier_driver_still_appends_reaches_nobody(tmp_path: Path) -> None:
    earlier = QueueWriter(tmp_path)
    put(earlier, 1)
    reader = QueueReader(tmp_path)
    assert not reader.replaced
    later = QueueWriter(tmp_path)
    put(earlier, 2)
    put(later, 3)
    assert ops(later) == [1, 3]
    assert reader.replaced
    reader.acknowledge(reader.pending()[-1].end)  # beyond what the later one has of it
    reader.sync(force=True)
    assert not (tmp_path / "acknowledged").exists()
    reader.close()
    earlier.close()
    assert ops(later) == [1, 3]
    later.close()


def test_entry_longer_than_one_read_is_whole(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    spool.append({"n": "x" * 3_000_000})
    put(spool, 2)
    first = pending(spool, acknowledged=1)[0]
    assert len(str(first.document["n"])) == 3_000_000
    assert ops(spool) == [2]
    spool.close()


def test_full_disk_keeps_entries_in_memory_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = QueueWriter(tmp_path)
    put(spool, 1)
    write = os.write

    def refuse(file: int, data: bytes) -> int:
        return write(file, data[:3])  # as a full disk does: part of the line

    monkeypatch.setattr("orchestrator.tracking.tracking_queue.os.write", refuse)
    put(spool, 2, 3)
    assert ops(spool) == [1]
    assert caplog.text.count("entries wait in memory") == 1
    monkeypatch.setattr("orchestrator.tracking.tracking_queue.os.write", write)
    spool.sync()
    assert ops(spool) == [1, 2, 3]
    put(spool, 4)
    assert ops(spool) == [1, 2, 3, 4]
    spool.close()


def test_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    put(spool, 1)
    with (tmp_path / "entries.jsonl").open("ab") as half:
        half.write(b'{"n":')
    assert ops(spool) == [1]
    with (tmp_path / "entries.jsonl").open("ab") as half:
        half.write(b"2}\n")
    assert ops(spool) == [1, 2]
    spool.close()


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path)
    threads = [
        threading.Thread(target=put, args=(spool, *range(k * 100, k * 100 + 100))) for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(str(n)) for n in ops(spool)) == list(range(800))
    spool.close()


def test_appending_is_one_write_and_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, writes, write = QueueWriter(tmp_path), [], os.write
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("waited for the disk"))
    monkeypatch.setattr(os, "write", lambda *given: writes.append(given) or write(*given))
    put(spool, *range(100))
    assert len(writes) == 100
    monkeypatch.undo()
    spool.close()


def test_a_position_that_the_full_disk_does_not_take_leaves_no_draft(tmp_path: Path) -> None:
    writer = QueueWriter(tmp_path)
    end = writer.append({"op": "a"})
    reader = QueueReader(tmp_path)
    reader.acknowledge(reader.pending()[0].end)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            reader.sync(force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert end == 1
    assert list(tmp_path.glob("*.draft")) == []
    reader.close()
    writer.close()
