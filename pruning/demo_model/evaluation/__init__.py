"""Evaluate the bundled model, pruners and structural plans on drawn scenes."""
