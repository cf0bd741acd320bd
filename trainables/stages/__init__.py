"""The pipeline's stages, one per file, each with ``run(settings, *, inputs..., context)``.

``PROVIDES`` names the tensors that a stage passes to each of its methods, so that a method that
needs other tensors is refused before a run starts.
"""
