"""What a model was made from, and what it answers to its test images, image by image.

A table in the model's folder, by which two versions are compared on the images that both were
tested on: `orchestrator.registry.paired`. Images are named by the SHA-256 of their files' bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from trainables.errors import ConfigError

if TYPE_CHECKING:
    from trainables.inference.model import Predictions

OUTCOMES_FILE, BASE_FILE = "outcomes.parquet", "base_outcomes.parquet"
FORMAT_VERSION = 1
METADATA = b"outcomes"  # key of what is no column, in the file's metadata

Part = Literal["train", "val", "pool", "test"]
FITTED = ("train", "val", "pool")  # parts that a model was fitted on, in one way or another
COLUMNS = {
    "digest": "str",
    "part": "str",
    "label": "str",
    "group": "str",
    "predicted": "str",
    "known": "bool",
    "confidence": "float32",
    "probability": "float32",
}


class Outcomes(NamedTuple):
    """The images of a model, and its answers to some of them.

    ``images`` has a row per image: ``digest``; ``part`` (train, val, pool or test); ``label``, the
    name of its class, empty in the pool; ``group``, the same for images that must not be parted.
    What the model answers: ``predicted``, the class of its largest output, empty where it was not
    asked; the verdict ``known``; ``confidence``; ``probability`` of the predicted class. Answers to
    training images are out-of-fold; those to images that validate are there where a network was
    trained without these.

    ``classes`` are all classes that the model can name. ``many_above`` and ``few_below`` bound the
    bands (`trainables.methods.metrics.accuracy.Accuracy`). ``level`` is the false alarm that the
    threshold was set for; ``None``: it was not set by a level. ``rehearsal`` is the AUROC of each
    class that the recipe's rehearsal let play new.
    """

    images: pd.DataFrame
    classes: tuple[str, ...]
    many_above: int = 100
    few_below: int = 20
    level: float | None = None
    rehearsal: Mapping[str, float] = {}

    def with_answers(self, part: Part, digests: Sequence[str], answers: Predictions) -> Outcomes:
        """Return the table with answers to images of a part; other images are passed over.

        Args:
            part: ``test``; ``train`` for out-of-fold answers; ``val`` for images kept out.
            digests: The images that were asked about, in any order.
            answers: An answer per image.

        Raises:
            ValueError: There are more or fewer answers than images.
        """
        if len(digests) != len(answers.class_name):
            raise ValueError(f"{len(digests)} images, {len(answers.class_name)} answers")
        position = {digest: n for n, digest in enumerate(digests)}
        found = self.images["digest"].map(position)
        rows = (self.images["part"] == part) & found.notna()
        at = found[rows].to_numpy(dtype=np.int64)
        images = self.images.copy()
        images.loc[rows, "predicted"] = np.array(answers.class_name, dtype=object)[at]
        images.loc[rows, "known"] = np.asarray(answers.known, dtype=bool)[at]
        for name in ("confidence", "probability"):
            images.loc[rows, name] = np.asarray(getattr(answers, name), dtype=np.float32)[at]
        return self._replace(images=images)

    def answered(self, part: Part) -> pd.DataFrame:
        """Return the images of a part to which there are answers."""
        rows = (self.images["part"] == part) & (self.images["predicted"] != "")
        return self.images[rows]

    def bands(self) -> dict[str, str]:
        """Return the band of each class, by its training images."""
        train = self.images[self.images["part"] == "train"]
        counts = train["label"].value_counts()
        return {name: self._band(int(counts.get(name, 0))) for name in self.classes}

    def _band(self, count: int) -> str:
        if count < self.few_below:
            return "few"
        return "many" if count > self.many_above else "medium"


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, which names an image.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     file_digest(Path(file.name))[:12]
        'e3b0c44298fc'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_table(
    digests: Sequence[str], parts: Sequence[str], labels: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Return the images of `Outcomes`, without answers, in the given order.

    An image that is there twice counts once: as fitted on, if one of its parts was.

    Example:
        >>> found = image_table(["a", "b", "a"], ["test", "test", "train"], ["x"] * 3, ["1"] * 3)
        >>> found[["digest", "part"]].values.tolist()
        [['b', 'test'], ['a', 'train']]
    """
    unknown = sorted(set(parts) - {*FITTED, "test"})
    if unknown:
        raise ValueError(f"parts are train, val, pool and test; received {', '.join(unknown)}")
    given = {"digest": digests, "part": parts, "label": labels, "group": groups}
    table = pd.DataFrame({name: np.array(list(v), dtype=object) for name, v in given.items()})
    table["rank"] = table["part"].map({name: n for n, name in enumerate((*FITTED, "test"))})
    table = table.sort_values("rank", kind="stable").drop_duplicates("digest").sort_index()
    table = table.drop(columns="rank").reset_index(drop=True)
    blank = {"predicted": "", "known": False, "confidence": np.nan, "probability": np.nan}
    return _typed(table.assign(**blank))


def save_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write a table to a Parquet file; the same table gives the same bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    plain = {
        "format_version": FORMAT_VERSION,
        "classes": list(outcomes.classes),
        "many_above": outcomes.many_above,
        "few_below": outcomes.few_below,
        "level": outcomes.level,
        "rehearsal": dict(outcomes.rehearsal),
    }
    columns = {name: outcomes.images[name].to_numpy() for name in COLUMNS}
    types = {"str": pa.string(), "bool": pa.bool_(), "float32": pa.float32()}
    schema = pa.schema(
        [(name, types[kind]) for name, kind in COLUMNS.items()],
        metadata={METADATA: json.dumps(plain, sort_keys=True).encode()},
    )
    arrays = [pa.array(columns[f.name], type=f.type, from_pandas=False) for f in schema]
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def load_outcomes(path: Path) -> Outcomes:
    """Read a table that `save_outcomes` wrote.

    Raises:
        ConfigError: The file is damaged, or of a newer format.
    """
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path, columns=list(COLUMNS))
        plain: dict[str, Any] = json.loads(table.schema.metadata[METADATA])
        version = plain.pop("format_version")
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"{path} has format {version}; this program reads <= {FORMAT_VERSION}"
            )
        images = _typed(table.to_pandas())
        return Outcomes(images, tuple(plain.pop("classes")), **plain)
    except (ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is damaged: {type(error).__name__} {text}") from None


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns of `COLUMNS` alone, of their types."""
    kinds = {name: object if kind == "str" else kind for name, kind in COLUMNS.items()}
    return table[list(COLUMNS)].astype(kinds)
