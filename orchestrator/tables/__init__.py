"""Tables of published results, reproduced and compared.

Modules in reading order: `schema` (a table's YAML), `table_record`, `table_order`, `reproduce`,
`table_tasks` (runs on Ray), `results_page`. Only the command `reproduce` uses this wing.
"""
