"""Evaluation of the bundled model and of pruning on drawn scenes that were never trained on."""
