"""The model as MLflow serves it: code beside safetensors and JSON, nothing pickled.

MLflow copies this file into the registered version and runs it there (models from code), with the
package ``trainables`` of the day beside it. It must import nothing else of this project.
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

from trainables.inference import load_model
from trainables.uploads import UploadError, decode_uploads

COLUMN = "image"


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Images in, one row per image out.

    Input: a table with the column ``image`` (any mix of base64 text of image files and nested
    numbers ``[H, W, 3]``), or an array ``[N, H, W, 3]``. Output: ``class_index``, ``class_name``,
    ``probability``, ``confidence``, ``known``, as in `trainables.inference.Predictions`.
    """

    # hints would become the signature, and no hint that MLflow knows says "text or numbers"
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the weights that lie beside this file."""
        self.model = load_model(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer; a refused upload is the caller's error (HTTP status 400)."""
        try:
            images = decode_uploads(values_of(model_input))
        except UploadError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return pd.DataFrame(self.model.predict(images)._asdict())


def values_of(model_input: Any) -> list[Any]:
    """Return the images of a request, undecoded.

    MLflow makes a table of ``dataframe_split`` and ``dataframe_records``; of ``inputs`` it may make
    a dictionary, or a table whose one cell holds them all.

    Raises:
        UploadError: A table or dictionary without the column.
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
    """Return one image, or several that came as one value: texts, or numbers ``[N, H, W, 3]``."""
    depth, inner = 0, value
    while isinstance(inner, list | tuple | np.ndarray) and len(inner):
        depth, inner = depth + 1, inner[0]
    several = depth >= 1 if isinstance(inner, str) else depth >= 4
    return list(value) if several else [value]


set_model(ServedModel())
