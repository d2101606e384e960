"""Files: CSV, JSON Lines, Parquet."""
