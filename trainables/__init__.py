"""What happens: stages and methods for long-tailed, open-world image classification.

Pure torch. Nothing below this package imports Ray, Optuna or MLflow, so a recipe also runs on a
laptop or a bare GPU machine: ``python -m trainables experiments/digits.yaml``.
"""
