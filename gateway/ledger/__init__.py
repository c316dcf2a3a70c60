"""The ledger: owner of jobs, attempts, committed checkpoints, data sets, nodes and the audit trail."""
