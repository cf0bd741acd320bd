"""A model folder becomes an MLflow model: signature, example, pinned requirements, code."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from trainables.inference import CARD_FILE, read_card

MODEL_PATH = Path("artifacts") / "model"  # where MLflow puts the folder inside of a version
HERE = Path(__file__).parent

# What `trainables` imports to answer. Versions are pinned as installed, without a local label
# such as "+cu128", which an index would have to be named for.
REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "pillow", "pydantic", "pyyaml",
    "safetensors", "scipy", "scikit-learn",
)  # fmt: skip


def is_model(folder: Path) -> bool:
    """Say whether a folder is an exported model that names its classes."""
    return (folder / CARD_FILE).is_file() and (folder / "updated_classifier").is_dir()


def package(folder: Path, target: Path) -> None:
    """Write an MLflow model around a model folder.

    Args:
        folder: An exported model.
        target: Created; the folder is copied to ``target/artifacts/model``.
    """
    import mlflow.pyfunc

    size = read_card(folder).image_size
    with tempfile.TemporaryDirectory() as draft:
        named = Path(draft) / "model"  # MLflow names the copy after the folder
        shutil.copytree(folder, named)
        with _quiet():
            mlflow.pyfunc.save_model(
                path=str(target),
                python_model=str(HERE / "served_model.py"),
                artifacts={"model": str(named)},
                code_paths=[str(HERE.parent / "trainables")],
                signature=signature(),
                input_example=input_example(size),
                pip_requirements=requirements(),
            )
    # MLflow copies these from the working directory; they may name hosts and secrets
    for name in ("uv.lock", "pyproject.toml", ".python-version"):
        (target / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from announcing each step of a save."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def requirements() -> list[str]:
    """Return the pinned requirements of a served model: no host, no local label."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature() -> Any:
    """Return what goes in (a column of images, as text or numbers) and what comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    outputs = {
        "class_index": "long",
        "class_name": "string",
        "probability": "double",
        "confidence": "double",
        "known": "boolean",
    }
    return ModelSignature(
        inputs=Schema([ColSpec(type=AnyType(), name="image")]),
        outputs=Schema([ColSpec(type=kind, name=name) for name, kind in outputs.items()]),
    )


def input_example(size: int) -> Any:
    """Return two gray images: a PNG in base64, and the same as numbers."""
    import numpy as np
    import pandas as pd

    image = np.full((size, size, 3), 128, dtype=np.uint8)
    small = np.full((2, 2, 3), 128, dtype=np.uint8)
    return pd.DataFrame({"image": [as_text(image), small.tolist()]})


def as_text(image: Any) -> str:
    """Return an image ``[H, W, 3]`` as a PNG file in base64: what a request carries."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
