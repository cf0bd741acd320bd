"""Texts that people write.

Modules: `yaml_text` (recipes and the values of ``--set``).
Used by settings and reports.
"""
