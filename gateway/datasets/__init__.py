"""Data sets: uploaded in pieces, checked once, never changed."""
