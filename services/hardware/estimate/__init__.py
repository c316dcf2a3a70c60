"""The estimator role: resolves specs and predicts what they need, in a child that alone imports torch."""
