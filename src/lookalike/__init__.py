"""Visual similarity search for image collections of any size, on Apache Spark.

>>> import lookalike
>>> index = lookalike.open("cars.index")                    # doctest: +SKIP
>>> hits = index.search("photo.jpg", k=5)                   # doctest: +SKIP
"""

from lookalike.embedding import ImageEmbedder
from lookalike.errors import LookalikeError
from lookalike.hits import Hits, Query
from lookalike.index import Index, index, open
from lookalike.search import Neighbor

__version__ = "0.1.0"

__all__ = [
    "Hits",
    "ImageEmbedder",
    "Index",
    "LookalikeError",
    "Neighbor",
    "Query",
    "index",
    "open",
]
