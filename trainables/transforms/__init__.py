"""Image operations and sample mixing on whole batches.

Modules in reading order: `image_ops`, `color_ops`, `augment_ops`, `foregrounds`, `mixing`. All take
batches of uint8 or float tensors with separate random parameters for each sample.
Every wing may import them; they import only errors and context.
"""
