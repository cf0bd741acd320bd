"""Search, execution, records and promotion of recipes, by Ray, Optuna and MLflow."""
