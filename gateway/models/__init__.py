"""The models of the hub that nodes have in their caches."""
