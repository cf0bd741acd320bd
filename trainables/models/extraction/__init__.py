"""Parts of feature extraction: what is read ahead, and what need not be computed again.

Modules in reading order: `ahead` (loads while the caller computes), `stored_features` (features of
images that a storage holds), `readings` (several layers and poolings in one pass), `pieces` (of a
batch that the memory does not hold).
`trainables.models.backbone.extract_features` puts them together;
`trainables.data.loader` reads ahead too.
"""
