"""Classifiers on frozen features that are computed, not trained.

Modules in reading order: random features (`projection`), what is kept of the images (`statistics`),
images that leave together (`groups`), the factor that makes answers logits (`scale`), `ridge`,
`ridge_choice`, `ridge_classifier` and `ridge_without`, one covariance (`gaussian`) or one per class
(`mahalanobis`, `class_gaussians`, `mahalanobis_head`), `neighbors`, other answers out of fold
(`out_of_fold`), base class (`fitting`).
"""
