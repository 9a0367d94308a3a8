"""Index a user's own vectors: read tables of them, compare them with an index, write segments."""
