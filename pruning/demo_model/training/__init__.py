"""Training of the bundled model: vision tower, projector and language model."""
