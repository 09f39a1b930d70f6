"""Training and evaluation of ACCM's captioner and selector for the bundled model."""
