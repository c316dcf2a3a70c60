"""Runs: each one's directory, its process, and the events that tell about it."""
