"""Life of a sweep and of its trials.

Modules in reading order: `sweep_start`, `data_look`, `sweep` (`run_sweep`), `sweep_job`, `tuning`,
`trial`, `callback`, `interrupts`, `progress`, `recovery`, `finalists`, `final_round`,
`service_recipe`, `service_round` (the choice with every class known), `failures`. This wing uses
all lower wings; only the commands and the tables of published results use it.
"""
