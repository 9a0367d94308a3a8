"""What every room stands on: whole files, untrusted input, DuckDB, progress, cores and memory."""
