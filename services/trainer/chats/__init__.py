"""Conversations with what a job trained: weighed like runs, each in a child process of its own."""
