"""Where a model comes from: read without torch, and refused where that could run a stranger's code."""
