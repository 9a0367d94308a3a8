"""Images in rows: DataFrames of Spark, and tables of Arrow, pandas and Polars."""
