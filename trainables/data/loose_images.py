"""Images without classes below a folder, such as unrelated ones of a stream."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from trainables.data.data_settings import USUAL_FITTING, Fitting
from trainables.data.decode import read_heads
from trainables.data.faults import Fault, left_out, log_faults, refuse_fatal, unreadable_files
from trainables.data.folders import Loaded, readable_files
from trainables.data.image_files import source_digest
from trainables.data.readers.file_tree import walk
from trainables.data.readers.layouts import require_folder
from trainables.data.source_cache import Source, files_content, files_key
from trainables.data.stored_sources import cached, open_images
from trainables.errors import readable


def load_loose_images(
    folder: Path,
    image_size: int,
    *,
    skip_unreadable: bool,
    cache: Path,
    fitting: Fitting = USUAL_FITTING,
) -> Source:
    """Load all images below a folder; see `read_loose_images`. What is left out is logged."""
    loaded = read_loose_images(
        folder, image_size, skip_unreadable=skip_unreadable, cache=cache, fitting=fitting
    )
    log_faults(loaded.faults)
    return loaded.source


def read_loose_images(
    folder: Path,
    image_size: int,
    *,
    skip_unreadable: bool,
    cache: Path,
    fitting: Fitting = USUAL_FITTING,
) -> Loaded:
    """Read all images below a folder, whatever their class (labels are -1).

    Raises:
        DataError: Missing or empty folder, or unreadable files.
    """
    files, faults = _loose_files(folder, skip_unreadable)

    def build() -> Source:
        opened = open_images(files, image_size, fitting, check=skip_unreadable, cache=cache)
        bad = unreadable_files(files, opened.heads, skip=skip_unreadable)
        refuse_fatal([*faults, *bad])
        good, skipped = readable_files(files, opened.heads, folder)
        if skipped:
            opened = opened.take(np.array(good))
        images = opened.images
        labels = np.full(len(images), -1, dtype=np.int64)
        is_test = np.zeros(len(labels), dtype=np.bool_)
        digest = source_digest(images, labels, is_test)
        return Source(images, labels, is_test, (), None, digest, skipped, files=opened.files)

    if any(fault.fatal for fault in faults):
        build()  # raises
    key = files_key(folder, files, ["loose", image_size, *fitting, skip_unreadable], cache)
    source = cached(cache, key, build, folder)
    return Loaded(source, [*faults, *left_out(source, folder)])


def outline_loose_images(folder: Path, *, skip_unreadable: bool) -> list[Fault]:
    """Read the heads of all files below a folder and return the faults.

    Raises:
        ConfigError: There is no such folder.
    """
    files, faults = _loose_files(folder, skip_unreadable)
    return [*faults, *unreadable_files(files, read_heads(files), skip=skip_unreadable)]


def loose_content(folder: Path, *, cache: Path) -> str:
    """Return a digest of all files below a folder; see `trainables.data.folders.folder_content`.

    Raises:
        ConfigError: There is no such folder.
    """
    return files_content(folder, _loose_files(folder, skip=True)[0], cache)


def _loose_files(folder: Path, skip: bool) -> tuple[list[str], list[Fault]]:
    """Return the files below a folder, and what can't be listed."""
    require_folder(folder)
    tree = walk(os.fspath(folder))
    faults = [
        Fault("broken links and files", readable(f"{path} {what}"), fatal=not skip)
        for path, what in tree.broken
    ]
    if not tree.files:
        text = f"{folder} holds no images; put some there or choose another folder"
        faults.append(Fault("no images", readable(text)))
    return tree.files, faults
