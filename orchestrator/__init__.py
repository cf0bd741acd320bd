"""Who runs, records and ships it: the only place that imports Ray, Optuna and MLflow."""
