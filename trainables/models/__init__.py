"""Backbones, head modules and projectors.

Modules in reading order: `networks`, `backbone`, the folder `trunks` (which of its weights are
trained), `precision`, `head_modules`, the special heads (`experts`, `routed_experts`,
`group_softmax`, `nearest_mean`), new classes (`growth`), the rate of a head (`head_rate`), modules
that are dropped after training (`projectors`, `contrastive_module`), and `early_exit`,
`activation_maps`. They import neither `data` nor `training`.
"""
