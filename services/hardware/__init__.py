"""The gate: what a node has, what a job needs, and whether the one holds the other.

Two roles share the package. `node` (inventory, admission) runs on every machine and never imports torch;
`estimator` (estimate) reads model configurations, in a child process, and holds no key.
"""

__version__ = "0.1.0"
