"""Stages and methods for long-tailed, open-world image classification, in pure torch.

The package does not import Ray, Optuna or MLflow, so a recipe also runs on a laptop or a bare GPU
machine by ``python -m trainables experiments/digits.yaml``. Its name does not refer to Ray's
``Trainable``.
"""
