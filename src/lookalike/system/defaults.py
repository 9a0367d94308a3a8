"""Defaults of the library and the command line, in a module that is quick to import."""

WAVE_IMAGES = 1_024
"""Images embedded between two commits."""

TARGET_RECALL = 0.98
"""Share of the true neighbours that a search has to find."""

MAX_PAIRS_PER_IMAGE = 100
"""Largest number of pairs of one image in a join."""

MIN_AGREEMENT = 0.965
"""Smallest agreement of pixels, 0 to 1, of two images that count as duplicates.

With 818 copies planted among 1,229 photos, the threshold with the best F1 on one half of them is
0.959 (`benchmarks/rivals/duplicates.py`). The default is a little higher, since dropping an image
that is no duplicate loses it.
"""

MAX_SHOWN_GROUPS = 200
"""Largest number of groups in a gallery."""

GALLERY_IMAGES = 60
"""Number of images in each part of the gallery of an index."""

KEEP_DAYS = 7.0
"""Days for which old versions of an index can be opened."""
