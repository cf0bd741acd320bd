"""Prediction with exported models.

Modules in reading order: `scoring` (fit calibrator, score and threshold), `out_of_fold` (answers to
training images), `whole_fit` (a rebalancer with such answers), `expected_prior` (how often classes
come), `service_check` (thresholds that serve), `judge` (which answers are right), `card`,
`reference` (how strange an image looks), `model` (load one), `answers` (to an image), `outcomes`
(to each test image), `outcome_tables` (these, from stage results), `uploads`, `evaluate_exported`.
Older versions import `load_model` from here.
"""

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Import a name's module on first access, to keep the import of this package cheap."""
    if name in __all__:
        from trainables.inference import model

        return getattr(model, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
