"""Training of the pruning methods that select with a trained module, for the bundled model."""
