"""How is it trained?

Modules in reading order: `classify_settings`, `loop`, `steps`, `optimizers`, `checkpoints`,
`distributed`, then the trainings of `classify`: `classify_model`, `classify_loss`, `step_batches`,
`phases`, and what single methods need: `self_training`, `momentum_encoder`, `mixed_batch`,
`student`, `update_settings`. Used by features and the stages; stands on models and data.
"""
