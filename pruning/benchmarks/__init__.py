"""Measure speed, and report what was measured."""
