"""Figures of the platform beside the limits it is held to: `make bench`. Nothing here fails a build."""
