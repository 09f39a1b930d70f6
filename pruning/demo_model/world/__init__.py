"""Drawn scenes, questions about them and true captions, made from random numbers."""
