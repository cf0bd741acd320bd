"""Prediction with exported models.

Modules in reading order: `scoring` (fit calibrator, score and threshold), `out_of_fold` (answers to
training images), `judge` (which answers are right), `card` (what a model is), `reference` (how
strange an image looks), `model` (load an exported model), `answers` (to an image), `outcomes` (to
each test image), `uploads` (decode untrusted images), `evaluate_exported` (on held-out data).
Registry and served models import them; older versions import `load_model` from this package.
"""

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Import a name's module on first access, to keep the import of this package cheap."""
    if name in __all__:
        from trainables.inference import model

        return getattr(model, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
