"""Model versions in the MLflow registry, their promotion, and their predictions.

Modules in reading order: `versions` (the MLflow registry), `packaging` and `served_model` (the
registered MLflow model), `promote` and `gate_settings` (decisions of the gates), `comparison`
(metrics of challenger and champion), `floors` (the best champion so far), `shared_images`, `paired`
and `resampling` (two versions image by image), `version_lookup` (a version's folder without
MLflow), `predictor` (its model). Used by trials and commands.
"""
