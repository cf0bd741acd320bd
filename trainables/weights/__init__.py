"""Weights that were trained elsewhere; models, stages, inference and reports use them.

Modules in reading order: `pretrained` (the weights of a recipe, or why they cannot be had),
`sources` (names of timm, folders, the hub), `hub` (files of servers), `tensor_files` and
`key_names` (tensors by name), `timm_networks` (what they belong to), `depth` (without its last
stages), `pooling` (one vector of a network's last maps), `preprocessing` (which images they take),
`provenance` and `label_sets` (what and with which labels they were trained on).
"""
