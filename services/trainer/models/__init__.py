"""The node's cache of the hub's models: filled ahead of jobs, listed, emptied, by a child process."""
