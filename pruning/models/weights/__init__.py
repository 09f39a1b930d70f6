"""Weight pruning inside models: blocks, calibration, gates, private views."""
