"""What is in these images? A registered version answers, image by image.

Modules in reading order: `named_images` (files, folders, globs and standard input), `stream`
(groups of names to predictions), `lines` (predictions as text, JSON or CSV). Only commands use
this wing; it reads models that the registry found.
"""
