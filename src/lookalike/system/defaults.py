"""Defaults that the library and the command line share: importing them costs nothing."""

WAVE = 1_024
"""Images embedded between two commits."""

RECALL = 0.98
"""Share of the true neighbours that a search is to find."""

CAP = 100
"""Pairs that one image brings into a join at most."""

AGREES = 0.965
"""Agreement of pixels, 0 to 1, from which on two images show the same.

With 818 copies planted among 1,229 photos, the threshold with the best F1 on one half of them is
0.959 (`benchmarks/rivals/duplicates.py`). This is a little more, since an image that is taken for a
copy may be dropped, and is lost if that is wrong.
"""

SHOWN = 200
"""Groups in a gallery."""

IN_GALLERY = 60
"""Images in each part of the gallery of an index."""

KEEP_DAYS = 7.0
"""Days for which the versions of an index can be opened."""
