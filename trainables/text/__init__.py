"""Texts that people write.

Modules: `yaml_text` (recipes and the values of ``--set``), `redaction` (texts without passwords).
Used by settings, reports and the command line.
"""
