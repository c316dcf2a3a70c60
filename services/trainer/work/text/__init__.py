"""Text: from rows of JSONL, Parquet and CSV to tokens, and what is told about them."""
