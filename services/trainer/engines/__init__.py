"""What runs a worker: the process engine."""
