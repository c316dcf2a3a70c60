"""Weighing a job: what it needs, and which nodes could hold it."""
