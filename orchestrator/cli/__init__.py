"""Command line of the orchestrator.

Modules in reading order: `main` (the commands), `fit`, `models`, `tables` (their bodies),
`options` (options of several commands), `errors` (how a command fails), `terminal_tables`,
`catalog` (all methods, as rows and as a page), `settings_page` (all settings and options, as a
page). A command imports heavy packages when it runs. Only the entry points import this wing.
"""
