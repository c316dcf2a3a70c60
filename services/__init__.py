"""The platform's services: each package is one process that runs alone."""
