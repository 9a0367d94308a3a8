"""Look at an index as a whole: pairs, duplicates, clusters, outliers, an overview, a map."""
