"""The one address that callers know: jobs, data sets and the fleet, and the ledger that holds them."""
