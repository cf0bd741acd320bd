"""Search, execution, records and promotion of recipes, by Ray, Optuna and MLflow.

``orchestrator.fit("photos")`` does from Python what the command ``fit`` does.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return `fit`, whose module is imported when it is asked for."""
    if name != "fit":
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    from orchestrator.fitting.fitted_model import fit

    return fit
