"""What people read of a sweep: the report as one HTML file, and the terminal.

Modules in reading order: `page` (one HTML file per sweep), `pictures` (its figures with captions),
`summary`, `figures` (one evaluation), `class_figures` (its classes), `sweep_figures` (a whole
sweep), `photo_findings` (what answers tell about photos), `photo_sections` (the same with
pictures), `drawing` (figure style), `templates/`; `terminal` (printing and errors).
Used by trials, tables and commands; reads records and stored evaluations.
"""
