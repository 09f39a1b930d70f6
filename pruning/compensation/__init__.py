"""Giving back in words what was pruned."""
