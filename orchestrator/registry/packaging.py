"""MLflow model of a model folder, with signature, example, pinned requirements and code."""

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

from trainables.inference.card import CARD_FILE, read_card

HERE = Path(__file__).parent

# Packages that `trainables` imports for predictions. Versions are pinned as installed, without the
# local label (such as "+cu128"), because only a special package index has labelled versions.
REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "pillow", "pydantic", "pyyaml",
    "safetensors", "scipy", "scikit-learn",
)  # fmt: skip


def is_model(folder: Path) -> bool:
    """Return True if a folder is an exported model that names its classes."""
    return (folder / CARD_FILE).is_file() and (folder / "classifier").is_dir()


def package(folder: Path, target: Path) -> None:
    """Write an MLflow model around a model folder.

    Args:
        folder: An exported model.
        target: Folder of the MLflow model, created; it gets a copy in ``artifacts/model``.
    """
    import mlflow.pyfunc

    size = read_card(folder).image_size
    with tempfile.TemporaryDirectory() as draft:
        named = Path(draft) / "model"  # MLflow gives its copy the name of the folder
        shutil.copytree(folder, named)
        with _quiet():
            mlflow.pyfunc.save_model(
                path=str(target),
                python_model=str(HERE / "served_model.py"),
                artifacts={"model": str(named)},
                code_paths=[str(HERE.parents[1] / "trainables")],
                signature=signature(),
                input_example=input_example(size),
                pip_requirements=requirements(),
            )
    # MLflow copies these files from the working directory; they may name hosts and secrets
    for name in ("uv.lock", "pyproject.toml", ".python-version"):
        (target / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow's messages about the steps of a save."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def requirements() -> list[str]:
    """Return the pinned requirements of a served model, without index and local labels."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature() -> Any:
    """Return the MLflow signature: a column of images (text or numbers) in, predictions out."""
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
    """Return two gray images, one as a PNG in base64 and one as nested numbers."""
    import numpy as np
    import pandas as pd

    image = np.full((size, size, 3), 128, dtype=np.uint8)
    small = np.full((2, 2, 3), 128, dtype=np.uint8)
    return pd.DataFrame({"image": [as_text(image), small.tolist()]})


def as_text(image: Any) -> str:
    """Return an image ``[H, W, 3]`` as a PNG file in base64, the format of a request."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
