"""Logging to MLflow that never delays or stops a trial.

Modules in reading order: `tracker` (the driver's calls), `tracking_queue` (on disk, survives a
kill), `sender_process`, `mlflow_sender`, `mlflow_runs`, `mlflow_calls`, `mlflow_client`;
`run_texts` (origin and descriptions of runs).
Used by trials, registry and commands.
"""
