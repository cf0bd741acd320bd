"""Fits that train a network on the photos, and not a head alone.

Modules in reading order: `kept_out` (images that calibrate), `untested` (classes without a test),
`pace` (how long a training takes, and how many epochs it has), `scratch` (a small network without
pretrained weights), `one_fold` (some classes play new, the network is trained without them),
`untried` (there was one recipe), `scratch_plan` (what will be trained), `scratch_job` (all of it,
in order).
"""
