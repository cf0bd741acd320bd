"""The pipeline, one file per stage; each has ``run(settings, *, inputs..., context)``.

``PROVIDES`` names the tensors that a stage gives to each method it calls, so that a method that
needs another one is refused before anything runs.
"""
