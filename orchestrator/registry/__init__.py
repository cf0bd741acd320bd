"""Model versions in the MLflow registry, their promotion, and their predictions.

Modules in reading order: `versions` (the MLflow registry), `packaging` and `served_model` (the
registered MLflow model), `promote`, `gate_settings`, `verdicts` (decisions), `judged_versions`,
`comparison` (by metrics), `judging`, `shared_images`, `paired` and `resampling` (image by image),
`floors` (the best champion so far), `predictor`, `version_lookup` (a version without MLflow).
"""
