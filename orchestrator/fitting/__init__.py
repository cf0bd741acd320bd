"""From a folder of photos to a champion that knows all of its classes, in one process.

`start` begins (`fit_options`, `photo_folder`, `threshold_images`, `dry_run`), `job` searches
(`backbone`, `recipe`, the folder `trying`; `rehearsing`) or trains a network (the folder
`training`), `service` makes the model that answers (the folder `figures`; `registering` in MLflow,
and gates). `fit_record` is what is kept, `screen` and `progress_lines` show it; `fitted_model` is
`orchestrator.fit`.
"""
