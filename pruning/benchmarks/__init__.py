"""Measurements of speed, and reports of what was measured."""
