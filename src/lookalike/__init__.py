"""Visual similarity search for image collections of any size, on Apache Spark.

>>> import lookalike
>>> index = lookalike.open_index("cars.index")              # doctest: +SKIP
>>> hits = index.search("photo.jpg", k=5)                   # doctest: +SKIP
"""

from lookalike.create import create_index, open_index
from lookalike.embedding import ImageEmbedder
from lookalike.errors import ImageError, LookalikeError
from lookalike.hits import SearchResult
from lookalike.index import Index
from lookalike.search import Neighbor

__version__ = "0.1.0"

__all__ = [
    "ImageEmbedder",
    "ImageError",
    "Index",
    "LookalikeError",
    "Neighbor",
    "SearchResult",
    "create_index",
    "open_index",
]
