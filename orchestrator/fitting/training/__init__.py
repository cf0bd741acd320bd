"""Fits that train a network on the photos, and not a head alone.

Modules in reading order: `kept_out` (images that calibrate), `untested` (classes without a test),
`pace` (how long a training takes, and how many epochs it has), `scratch` (a small network without
pretrained weights), `one_fold` (some classes play new, the network is trained without them),
`untried` (there was one recipe), `training_plan` (what will be trained), `network_job` (training
and rehearsal, in order), `scratch_job` (all of a fit from scratch), `deeper` and `deeper_job` (a
pretrained backbone that is fine-tuned and compared with the frozen one).
"""
