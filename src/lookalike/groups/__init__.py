"""Analyse a collection: pairs, duplicates, clusters, outliers and an overview."""
