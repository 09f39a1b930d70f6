"""Drawn scenes, questions about them, and captions."""
