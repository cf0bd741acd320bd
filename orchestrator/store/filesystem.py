"""Where stage results lie: a folder of this host or a share, or any ``pyarrow.fs`` URI.

Object stores are ``pyarrow.fs``'s. A folder is not given to its ``LocalFileSystem``: a rename
publishes a result of 45 MB in 0.1 ms and reading lends the folder itself, where copies by
``pyarrow`` take 107 ms and 74 ms (medians of five) and a reader may see half of a result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from orchestrator.options import local_folder
from trainables.errors import ConfigError, short

DRAFT = "tmp-"
BLOCK = 4096
RENEW_SECONDS = 6 * 3600.0  # an object's time cannot be set, so an older one is written again


class FileEntry(NamedTuple):
    """A file of a storage: name, bytes, and seconds since it was written or renewed."""

    name: str
    size: int
    age: float


class StorageBackend(Protocol):
    """Where folders of files are published; paths are relative and use ``/``."""

    local: bool
    uri: str

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or ``None``: there is none."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Write a file in one step; one of that name and size stays, and counts as new again."""
        ...

    def entries(self, folder: str) -> list[FileEntry]:
        """Return the files of a folder that `put` wrote, its unfinished drafts among them."""
        ...

    def has(self, folder: str) -> bool:
        """Say whether something would stand in the way of publishing a folder."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return what was published below a folder; a result without manifest may be among it."""
        ...

    def fetched(self, folder: str, files: Iterable[str]) -> AbstractContextManager[Path]:
        """Lend a local folder that holds the named files; those that are missing are left out."""
        ...

    def draft(self, folder: str, name: str) -> Path:
        """Return a new local folder in which ``folder`` is built."""
        ...

    def publish(self, draft: Path, folder: str, last: str) -> None:
        """Make a draft visible as ``folder``; the file ``last`` appears when all others have.

        Raises:
            FileExistsError: The folder is there already.
        """
        ...

    def set_aside(self, path: str, to: str) -> None:
        """Move a folder or a file out of the way; nothing happens when it is not there."""
        ...

    def remove(self, folder: str) -> None:
        """Delete a published folder; nothing happens when it is not there."""
        ...

    def remove_file(self, path: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        ...


class LocalBackend:
    """A folder of this host, or a share that is mounted (NFS)."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or ``None``: there is none."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def put(self, path: str, content: bytes) -> None:
        """Write a draft beside the file and rename it."""
        target = self.root / path
        with suppress(FileNotFoundError):
            if target.stat().st_size == len(content):
                with suppress(PermissionError):  # on a share, the file of another user
                    os.utime(target)
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{DRAFT}{target.name}-{uuid.uuid4().hex}")
        try:
            draft.write_bytes(content)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def entries(self, folder: str) -> list[FileEntry]:
        """Return the files of a folder."""
        found, now = [], time.time()
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.root / folder):
                with suppress(FileNotFoundError):  # removed by another process
                    stat = entry.stat()
                    found.append(FileEntry(entry.name, stat.st_size, now - stat.st_mtime))
        return found

    def has(self, folder: str) -> bool:
        """Say whether the folder is there, with or without a manifest, or something else is."""
        return os.path.lexists(self.root / folder)

    def names(self, folder: str) -> list[str]:
        """Return the names below a folder, drafts left out."""
        try:
            found = os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in found if not name.startswith(DRAFT)]

    @contextmanager
    def fetched(self, folder: str, files: Iterable[str]) -> Iterator[Path]:
        """Lend the folder itself."""
        yield self.root / folder

    def draft(self, folder: str, name: str) -> Path:
        """Return a new folder beside the target, so that publishing is one rename.

        Drafts of the same target that a killed process left are removed: whoever makes a draft
        holds the target's lease.
        """
        target = self.root / folder
        for old in target.parent.glob(f"{DRAFT}{target.name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        draft = target.parent / f"{DRAFT}{target.name}-{name}"
        draft.mkdir(parents=True)
        return draft

    def publish(self, draft: Path, folder: str, last: str) -> None:
        """Rename the draft: all of it appears at once.

        Files are not forced to the disk: what a power cut leaves half-written does not match its
        checksum and is computed again.
        """
        target = self.root / folder
        try:
            draft.rename(target)
        except OSError as error:
            if target.is_dir():
                raise FileExistsError(f"{target} was published by another process") from error
            raise

    def set_aside(self, path: str, to: str) -> None:
        """Rename the folder or file."""
        target = self.root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self.root / path).rename(target)
        except FileNotFoundError:
            return

    def remove(self, folder: str) -> None:
        """Rename the folder to a draft, so that it is gone at once, and delete that."""
        target = self.root / folder
        gone = target.parent / f"{DRAFT}{target.name}-{uuid.uuid4().hex}"
        try:
            target.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def remove_file(self, path: str) -> None:
        """Delete a file."""
        (self.root / path).unlink(missing_ok=True)


class RemoteBackend:
    """A ``pyarrow.fs`` file system: there is no rename, so the last file says that all are there.

    Args:
        filesystem: A ``pyarrow.fs.FileSystem``.
        root: Path inside it.
        uri: Its name in messages.
    """

    local = False

    def __init__(self, filesystem: Any, root: str, uri: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.uri = uri

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or ``None``: there is none."""
        try:
            with self.filesystem.open_input_stream(f"{self.root}/{path}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def put(self, path: str, content: bytes) -> None:
        """Upload a file; an interrupted upload has another size, or is not there at all."""
        target = f"{self.root}/{path}"
        found = self.filesystem.get_file_info(target)
        if found.size == len(content) and _age(found) < RENEW_SECONDS:
            return
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(target) as stream:
            stream.write(content)

    def entries(self, folder: str) -> list[FileEntry]:
        """Return the files of a folder."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return [FileEntry(info.base_name, info.size, _age(info)) for info in found]

    def has(self, folder: str) -> bool:
        """Return False: what an interrupted upload left is overwritten."""
        return False

    def names(self, folder: str) -> list[str]:
        """Return the names below a folder."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        return [info.base_name for info in self.filesystem.get_file_info(selector)]

    @contextmanager
    def fetched(self, folder: str, files: Iterable[str]) -> Iterator[Path]:
        """Lend a temporary folder with copies of the files."""
        with tempfile.TemporaryDirectory(prefix="stage-") as into:
            for name in files:
                content = self.read(f"{folder}/{name}")
                if content is not None:
                    target = Path(into) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            yield Path(into)

    def draft(self, folder: str, name: str) -> Path:
        """Return a new temporary folder."""
        return Path(tempfile.mkdtemp(prefix="stage-"))

    def publish(self, draft: Path, folder: str, last: str) -> None:
        """Upload every file, the ``last`` one after all others, and remove the draft."""
        names = sorted(str(p.relative_to(draft)) for p in draft.rglob("*") if p.is_file())
        for name in sorted(names, key=lambda n: n == last):
            path = f"{self.root}/{folder}/{name}"
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write((draft / name).read_bytes())
        shutil.rmtree(draft, ignore_errors=True)

    def set_aside(self, path: str, to: str) -> None:
        """Move file by file, the manifest first so that the result is gone at once."""
        from pyarrow.fs import FileSelector, FileType

        found = [self.filesystem.get_file_info(f"{self.root}/{path}")]
        if found[0].type != FileType.File:
            found = self.filesystem.get_file_info(
                FileSelector(f"{self.root}/{path}", recursive=True, allow_not_found=True)
            )
        files = [info.path for info in found if info.type == FileType.File]
        for file in sorted(files, key=lambda name: not name.endswith("manifest.json")):
            target = f"{self.root}/{to}{file[file.index(path) + len(path) :]}"
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            self.filesystem.move(file, target)

    def remove(self, folder: str) -> None:
        """Delete the manifest first, so that the folder is gone at once, then the rest."""
        path = f"{self.root}/{folder}"
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{path}/manifest.json")
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(path)

    def remove_file(self, path: str) -> None:
        """Delete a file."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.root}/{path}")


def _age(info: Any) -> float:
    """Return the seconds since a file of ``pyarrow.fs`` was written, 0 if it is not known."""
    return 0.0 if info.mtime_ns is None else time.time() - info.mtime_ns / 1e9


def open_backend(storage: str, filesystem: Any = None) -> StorageBackend:
    """Open a storage.

    Args:
        storage: A path, ``file://``, or a URI that ``pyarrow.fs`` knows (``s3://``, ``gs://``).
        filesystem: A ``pyarrow.fs.FileSystem`` in which ``storage`` is a path; ``None`` finds it.

    Raises:
        ConfigError: No file system knows the URI.
    """
    if filesystem is not None:
        return RemoteBackend(filesystem, storage, f"{filesystem.type_name}:{storage}")
    if storage.startswith("file://") or "://" not in storage:
        return LocalBackend(local_folder(storage))
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        found, root = FileSystem.from_uri(storage)
    except (ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"storage: cannot open '{storage}': {reason}") from None
    if not root.strip("/"):
        raise ConfigError(f"storage: '{storage}' names no bucket or folder")
    return RemoteBackend(found, root, storage)


def check_storage(storage: str) -> None:
    """Refuse a storage that cannot be used.

    Raises:
        ConfigError: No file system knows its URI, its folder cannot be written, or MLflow's
            database cannot lie in it.
    """
    if "://" in storage.removeprefix("file://"):
        open_backend(storage)
    folder = local_folder(storage)
    if "?" in str(folder) or unquote(str(folder)) != str(folder):
        raise ConfigError(
            "--storage: its path must have no '?' and no sequence like '%20', which mean other "
            f"things in the address of MLflow's database; received {short(str(folder))}"
        )
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(BLOCK))  # a full disk still takes an empty file
            file.flush()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"--storage: cannot write to {short(storage)}: {reason}") from None


def scratch_root(backend: StorageBackend) -> Path:
    """Return the folder for unfinished work: in the storage, or a temporary one for a remote one.

    On a path it lies in the storage, so that whoever takes over finds the checkpoints of the dead.
    """
    if isinstance(backend, LocalBackend):
        return backend.root / "scratch"
    name = hashlib.sha256(backend.uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"longtail-scratch-{os.getuid()}" / name
