"""Which recipe next?

Modules in reading order: `searcher` (Ray Tune asks it, Optuna remembers); `sampler_names`,
`samplers` and `sampler_wrappers` (Optuna's samplers, by name); `sweep_study`, `study_manifest`,
`study_files` and `journal` (what a resume stands on); `recipe_paths` (what a recipe's files and
folders hold); `objectives`; `schedulers`; `ladder` and `ladder_view`.
Used by trials; knows neither stages nor MLflow.
"""
