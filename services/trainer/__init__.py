"""The trainer: runs approved attempts of jobs on one node, each in a process of its own."""
