"""Data sources, the protocol that splits a source into views, and batches of a view.

Modules in reading order: `source_names`, `service_settings`, `data_settings`, `sources`, `folders`,
`loose_images`, `faults`, `decode`, `source_cache`, `image_files` (decoded when asked for),
`stored_sources`, `protocol` (known, new, validation, long tail, stream), `views`, `look` (checks
before a run), `loader`; the wing `readers` reads folders and tables, `cuts` has the protocol's
rules. They import settings, the methods' contracts and transforms.
"""
