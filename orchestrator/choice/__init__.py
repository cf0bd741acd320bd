"""Choices on validation: which recipes are finalists, which wins, which of its models answers.

Modules in reading order: `finalist_choice` (the best trials), `soups` (averages of these),
`selection` (the winner, or the base recipe), `paired_gains` (what is beyond noise), `serving` (the
model before or after the update), `service_figures` (of the model with every class known). Only
trials use this wing.
"""
