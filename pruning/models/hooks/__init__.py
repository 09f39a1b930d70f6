"""Hooks that observe and shorten unmodified transformers models."""
