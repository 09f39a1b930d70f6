"""Tensor functions that methods and models share; no module here knows a model."""
