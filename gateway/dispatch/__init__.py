"""The dispatcher: one at a time it moves jobs on, from the weighing to the end of their last attempt."""
