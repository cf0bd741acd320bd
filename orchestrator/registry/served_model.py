"""Model that MLflow serves, loaded from safetensors and JSON without pickle.

MLflow copies this file and the package ``trainables`` into the registered version and runs the copy
(models from code). The file must not import anything else of this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from trainables.threads import choose_threads_if_free

choose_threads_if_free()  # before torch is loaded

from trainables.inference.model import load_model  # noqa: E402
from trainables.inference.uploads import UploadError, decode_uploads  # noqa: E402

COLUMN = "image"


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Predictor that returns one row per image.

    Input: a table with the column ``image`` (any mix of base64 text of image files and nested
    numbers ``[H, W, 3]``), or an array ``[N, H, W, 3]``. Output: ``class_index``, ``class_name``,
    ``probability``, ``confidence``, ``known``, as in `trainables.inference.model.Predictions`.
    """

    # MLflow would derive the signature from type hints, which cannot express "text or numbers"
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the model from the version's folder."""
        self.model = load_model(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the predictions; a refused upload is a client error (HTTP status 400)."""
        try:
            images = decode_uploads(values_of(model_input))
        except UploadError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return pd.DataFrame(self.model.predict(images)._asdict())


def values_of(model_input: Any) -> list[Any]:
    """Return the images of a request, undecoded.

    MLflow converts ``dataframe_split`` and ``dataframe_records`` to a table, and ``inputs`` to a
    dictionary or to a table with all images in one cell.

    Raises:
        UploadError: The table or dictionary lacks the column.
    """
    values = model_input
    if isinstance(model_input, pd.DataFrame | dict):
        if COLUMN not in model_input:
            raise UploadError(
                f"the column '{COLUMN}' is missing; received {', '.join(map(str, model_input))}"
            )
        values = model_input[COLUMN]
    found = list(values) if isinstance(values, pd.Series) else [values]
    return [image for value in found for image in _spread(value)]


def _spread(value: Any) -> list[Any]:
    """Return the images of a value: one image, several texts, or numbers ``[N, H, W, 3]``."""
    depth, inner = 0, value
    while isinstance(inner, list | tuple | np.ndarray) and len(inner):
        depth, inner = depth + 1, inner[0]
    several = depth >= 1 if isinstance(inner, str) else depth >= 4
    return list(value) if several else [value]


set_model(ServedModel())
