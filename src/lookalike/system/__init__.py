"""The base of all packages: atomic files, caches, untrusted input, DuckDB, progress, resources."""
