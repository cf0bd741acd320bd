"""Readers of the forms in which people keep images: which file has which class and part.

Modules in reading order: `scan` (any form), `layouts` (folders), `tables` (CSV, Parquet),
`published` (tables of published data sets),
`saved_datasets` (of Hugging Face), `rows` (the check of lines), `parts` (train,
validation, test), `superclasses`, `file_tree` (what lies below a folder), `kept_files` (the file
of each image of a source). None decodes an image.
"""
