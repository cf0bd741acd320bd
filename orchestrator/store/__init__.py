"""Store of stage results, in which each result is computed once.

Modules in reading order: `stage_store` (find, compute or wait), `manifest` (metadata of a stored
result), `shared_tensors` (tensors once by content), `filesystem` (folders and URIs), `leases`,
`actor_leases`, `result_cache`, `collection` (removal of unused tensors), `feature_shards` (features
of frozen trunks, image by image), `protocol_files` (how a sweep's data was cut).
Used by execution, trials, registry and report.
"""
