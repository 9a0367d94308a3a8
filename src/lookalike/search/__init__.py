"""Find the nearest neighbours of vectors: exactly, by signatures, or for all rows on Spark."""
