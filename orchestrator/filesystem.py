"""Where stage results lie: a folder of this host or a share, or any ``pyarrow.fs`` URI."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from trainables.errors import ConfigError

DRAFT = "tmp-"


class Place(Protocol):
    """Where folders of files are published; paths are relative and use ``/``."""

    local: bool
    uri: str

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or ``None``: there is none."""
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

    def set_aside(self, folder: str, to: str) -> None:
        """Move a folder out of the way; nothing happens when it is not there."""
        ...

    def remove(self, folder: str) -> None:
        """Delete a published folder; nothing happens when it is not there."""
        ...


class LocalPlace:
    """A folder of this host, or a share that is mounted (NFS)."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or ``None``: there is none."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def has(self, folder: str) -> bool:
        """Say whether the folder is there, with or without a manifest."""
        return (self.root / folder).is_dir()

    def names(self, folder: str) -> list[str]:
        """Return the names below a folder, drafts left out."""
        try:
            found = os.listdir(self.root / folder)
        except FileNotFoundError:
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

    def set_aside(self, folder: str, to: str) -> None:
        """Rename the folder."""
        target = self.root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self.root / folder).rename(target)
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


class RemotePlace:
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

    def set_aside(self, folder: str, to: str) -> None:
        """Move file by file, the manifest first so that the result is gone at once."""
        from pyarrow.fs import FileSelector, FileType

        base = f"{self.root}/{folder}"
        found = self.filesystem.get_file_info(
            FileSelector(base, recursive=True, allow_not_found=True)
        )
        files = [info.path for info in found if info.type == FileType.File]
        for path in sorted(files, key=lambda p: not p.endswith("manifest.json")):
            target = f"{self.root}/{to}{path[path.index(folder) + len(folder) :]}"
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            self.filesystem.move(path, target)

    def remove(self, folder: str) -> None:
        """Delete the manifest first, so that the folder is gone at once, then the rest."""
        path = f"{self.root}/{folder}"
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{path}/manifest.json")
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(path)


def open_place(storage: str, filesystem: Any = None) -> Place:
    """Open a storage.

    Args:
        storage: A path, ``file://``, or a URI that ``pyarrow.fs`` knows (``s3://``, ``gs://``).
        filesystem: A ``pyarrow.fs.FileSystem`` in which ``storage`` is a path; ``None`` finds it.

    Raises:
        ConfigError: No file system knows the URI.
    """
    if filesystem is not None:
        return RemotePlace(filesystem, storage, f"{filesystem.type_name}:{storage}")
    if storage.startswith("file://"):
        return LocalPlace(Path(unquote(urlparse(storage).path)))
    if "://" not in storage:
        return LocalPlace(Path(storage).expanduser().absolute())
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        found, root = FileSystem.from_uri(storage)
    except (ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"storage: cannot open '{storage}': {reason}") from None
    return RemotePlace(found, root, storage)


def scratch_root(place: Place) -> Path:
    """Return the folder for unfinished work: in the storage, or a temporary one for a remote one.

    On a path it lies in the storage, so that whoever takes over finds the checkpoints of the dead.
    """
    if isinstance(place, LocalPlace):
        return place.root / "scratch"
    name = hashlib.sha256(place.uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"longtail-scratch-{os.getuid()}" / name
