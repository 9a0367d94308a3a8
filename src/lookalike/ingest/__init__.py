"""Brings images into a table of embeddings: what a listing changes, which rows names stand for."""
