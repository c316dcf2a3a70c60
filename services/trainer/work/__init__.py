"""What a worker does, from its locks to its outcome. What loads torch is imported once the claim is held."""
