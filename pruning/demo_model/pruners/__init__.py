"""Train the modules of learned pruners for the bundled model."""
