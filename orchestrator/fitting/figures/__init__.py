"""How good the model that answers is, and what it says image by image.

Modules in reading order: `intervals` (of rates by class), `measuring` (figures of test and out of
fold), `source_photos` (which photo an image of a source is), `photo_answers` (with probabilities
and features), `fit_pages` (the page with pictures, and suspect labels as a table),
`loose_clusters` (which unknown images look alike), `loose_photos` (what images of no class look
like), `closing_lines` (the end of the screen).
"""
