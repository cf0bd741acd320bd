"""Rules by which the protocol cuts a source: which image and class plays what.

Modules in reading order: `own_parts`, `test_part`, `class_roles` (known, new in the validation, new
in the test), `validation`, `service` (all classes known), `class_sizes` (of the long tail),
`groups` (of images that are not parted).
"""
