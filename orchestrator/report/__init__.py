"""What people read of a sweep or a fit: the report as one HTML file, and the terminal.

Modules in reading order: `page` (one HTML file per sweep), `fit_page` (one per fit), `pictures`
(its figures with captions), `summary`, `figures` (one evaluation), `class_figures` (its classes),
`sweep_figures` (a whole sweep), `photo_findings` and `photo_sections` (what answers tell about
photos, with pictures), `service_lines` (the model that answers), `drawing` (figure
style), `templates/`; `terminal` (printing and errors).
Used by trials, fits, tables and commands; reads records and stored evaluations.
"""
