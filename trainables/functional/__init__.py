"""Pure functions behind methods, as in torch and torchmetrics.

Modules: `l2_normalize`, `class_weights`, `class_means`, `contrast`, `distillation`, `prior_shift`,
`von_mises_fisher`, `promotion_rules`, `paired_rules`, `index_sampling`, `joined_batch`,
`to_device`, `plateau`, `verdict`.
They map tensors to tensors and have neither state (`class_means` excepted) nor settings. Every wing
above may import them; they import only transforms and errors.
"""
