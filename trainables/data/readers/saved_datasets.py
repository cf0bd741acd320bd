"""Folders that `save_to_disk` of Hugging Face `datasets` wrote; pyarrow alone reads them.

Their images lie in Arrow files. They are written as files into the cache folder, once, so that
all that follows finds files as in any other source.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trainables.data.faults import Fault
from trainables.data.readers.file_tree import looks_like_image
from trainables.data.readers.parts import PARTS, is_test_of, is_validation
from trainables.data.readers.rows import Layout, Line, Row, check_lines, read_text
from trainables.data.readers.tables import find_column
from trainables.data.source_cache import KEY_DIGITS, files_content
from trainables.data.source_names import Columns
from trainables.errors import ConfigError
from trainables.settings import canonical_json

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
UNPACKED = "unpacked"
NO_LABEL = -1  # how a ClassLabel says that an image has none


class _Part(NamedTuple):
    """A split: its name (empty if the dataset has none), its columns and their features."""

    name: str
    folder: Path
    table: Any
    features: dict[str, Any]


def is_saved_dataset(folder: Path) -> bool:
    """Say whether a folder is a saved dataset: one split, or a folder per split."""
    single = (folder / STATE).is_file() and (folder / INFO).is_file()
    return single or (folder / SPLITS).is_file()


def scan_saved_dataset(
    folder: Path, columns: Columns, *, skip_unreadable: bool, cache: Path
) -> Layout:
    """List the images of a saved dataset with class and part, and all faults.

    Args:
        folder: The saved dataset.
        columns: Names of the columns of images and labels; ``None`` recognizes them.
        skip_unreadable: Leave out rows without an image or class, with a count.
        cache: Folder in which the images are written as files.

    Raises:
        ConfigError: It can't be read, or there is no library that reads it.
    """
    parts = _read_parts(folder)
    is_test, faults = _kept_parts(folder, parts)
    features = parts[0].features
    image, label = (
        _column(folder, role, kind, features, wanted, faults)
        for role, kind, wanted in (
            ("path", "Image", columns.path),
            ("label", "ClassLabel", columns.label),
        )
    )
    if any(fault.fatal for fault in faults):
        return Layout([], faults, base=folder)
    target = _unpack(folder, parts, image, cache)
    rows: list[Row] = []
    for part in parts:
        if part.name not in is_test:
            continue
        lines = _lines(part, image, label, target / part.name, is_test[part.name])
        found, more = check_lines(part.folder, part.folder, lines, skip=skip_unreadable)
        rows += found
        faults += more
    return Layout(rows, faults, base=target)


def _read_parts(folder: Path) -> list[_Part]:
    """Open the splits of a saved dataset; their bytes are mapped, not read."""
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            f"{folder}: a dataset saved by Hugging Face datasets is read by pyarrow; install it, "
            "or save the images in a folder per class"
        ) from None
    try:
        named = (folder / SPLITS).is_file()
        names = json.loads(read_text(folder / SPLITS))["splits"] if named else [""]
        if not names:
            raise ValueError("it has no split")
        return [_read_part(name, folder / name, pyarrow) for name in names]
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{folder} is a damaged dataset of Hugging Face ({type(error).__name__}: {reason}); "
            "save it anew"
        ) from None


def _read_part(name: str, folder: Path, pyarrow: Any) -> _Part:
    if name in (".", "..") or os.path.basename(name) != name:
        raise ValueError(f"'{name}' is no name of a split")
    state = json.loads(read_text(folder / STATE))
    files = [os.fspath(folder / found["filename"]) for found in state["_data_files"]]
    tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(file)).read_all() for file in files]
    features = json.loads(read_text(folder / INFO))["features"]
    return _Part(name, folder, pyarrow.concat_tables(tables), features)


def _kept_parts(folder: Path, parts: list[_Part]) -> tuple[dict[str, bool | None], list[Fault]]:
    """Return the splits that count, with what `is_test_of` says, and a line for the others."""
    faults = []
    kept = []
    for part in parts:
        if part.name and part.name.casefold() not in PARTS:
            why = "read are train, validation and test"
        elif part.name and _unlabelled(part):
            why = "it has no labels"
        else:
            kept.append(part.name)
            continue
        text = f"{folder}: split '{part.name}' left out ({part.table.num_rows} rows): {why}"
        faults.append(Fault("layout", text, fatal=False))
    is_test, more = is_test_of(os.fspath(folder), kept, bool(parts[0].name))
    return is_test, [*faults, *more]


def _unlabelled(part: _Part) -> bool:
    """Say whether all classes of a split are hidden, as in the test of a benchmark."""
    names = [name for name, feature in part.features.items() if _kind(feature) == "ClassLabel"]
    return bool(names) and all(
        set(part.table.column(name).unique().to_pylist()) <= {NO_LABEL, None} for name in names
    )


def _kind(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _column(
    folder: Path,
    role: str,
    kind: str,
    features: dict[str, Any],
    wanted: str | None,
    faults: list[Fault],
) -> str:
    """Return the column of a role: that which is set, the only one of its kind, or a usual name."""
    typed = [name for name, feature in features.items() if _kind(feature) == kind]
    if wanted is None and len(typed) == 1:
        return typed[0]
    names = list(features)
    place, text = find_column(role, names, wanted)
    if text:
        faults.append(Fault("columns", f"{folder} {text}"))
    return names[place]


def _lines(
    part: _Part, image: str, label: str, unpacked: Path, is_test: bool | None
) -> Iterator[Line]:
    """Yield a split's rows, from 1 on."""
    feature = part.features[label]
    names = feature["names"] if _kind(feature) == "ClassLabel" else None
    labels = part.table.column(label).to_pylist()
    files = _file_names(part.table.column(image), unpacked)
    for number, (file, value) in enumerate(zip(files, labels, strict=True), 1):
        text = "" if value is None or value == NO_LABEL else str(value)
        if names and text:
            text = names[value]
        yield Line(number, file, text, is_test, validation=is_validation(part.name))


def _file_names(column: Any, unpacked: Path) -> list[str]:
    """Return the file of each image: where it is written, or where the dataset says that it is.

    The bytes of the images are not read.
    """
    from pyarrow import compute, types

    if not types.is_struct(column.type):
        return [str(name or "") for name in column.to_pylist()]
    paths = [str(path or "") for path in compute.struct_field(column, "path").to_pylist()]
    held = compute.is_valid(compute.struct_field(column, "bytes")).to_pylist()
    rows = enumerate(zip(paths, held, strict=True), 1)
    return [_unpacked_name(number, path, unpacked) if own else path for number, (path, own) in rows]


def _unpacked_name(number: int, path: str, unpacked: Path) -> str:
    suffix = Path(path).suffix
    ending = suffix if looks_like_image(suffix) else ""
    return os.path.abspath(unpacked / f"{number:08}{ending}")


def _unpack(folder: Path, parts: Iterable[_Part], image: str, cache: Path) -> Path:
    """Write the images of all splits into the cache folder, once for this content."""
    files = sorted(os.fspath(path) for path in folder.rglob("*.arrow"))
    content = canonical_json([files_content(folder, files, cache), image])
    target = cache / UNPACKED / hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        for part in parts:
            (draft / part.name).mkdir(exist_ok=True)
            column = part.table.column(image)
            for name, cell in zip(_file_names(column, draft / part.name), column, strict=True):
                value = cell.as_py()
                if isinstance(value, dict) and value["bytes"] is not None:
                    Path(name).write_bytes(value["bytes"])
        os.chmod(draft, 0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # no other process has written it meanwhile
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
