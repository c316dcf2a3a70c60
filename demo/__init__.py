"""The platform's main jobs, from a clean checkout to a model that answers: `python -m demo`."""
