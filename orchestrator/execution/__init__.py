"""Execution of stages in this process, on a Ray cluster, or in a group of training workers.

Modules in reading order: `store_executor` (steps through the store), `execute` (one recipe),
`single` (one recipe from the command line), `stored_precision` (what `auto` stands for),
`devices`, `cluster` (Ray), `shared_storage` (do all hosts see it?), `train_group` and `group_owner`
(several workers), `training_states` and `state_cleanup` (resuming of trainings), `infrastructure`
and `ray_watch` (failures of disk, host and Ray), `ctrl_c`, `progress` (of what runs).
Used by trials and tables; uses the store.
"""
