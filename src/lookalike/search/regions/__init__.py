"""Regions: a copy of all rows in the order of their cells, which one machine searches by ranges.

A search holds the centres of the cells in memory, reads the signatures of the nearest cells, and
the vectors of the best rows: some hundred kilobytes of a disk or a store, however large the index
is. `layout` describes the files, `build` makes them on Spark, `search` reads them.
"""

from lookalike.search.regions.build import BuiltRegions, build_regions
from lookalike.search.regions.search import Regions, open_regions

__all__ = ["BuiltRegions", "Regions", "build_regions", "open_regions"]
