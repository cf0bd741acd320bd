"""Head training, clustering and nearest neighbors on cached features.

Modules in reading order: `predict`, `head_training`, `objectives`, `balanced_training`, training of
many heads at once (`batched_heads`, `head_stacks`, `head_losses`, `rebalancer_search`),
`neighbors`, `kmeans`, `clustering`, `matching`, `expert_weights`, and recomputation of features
(`augmented_features`, `batchnorm`). Rebalancers, inference and the stages import them.
"""
