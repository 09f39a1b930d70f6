"""PruneScope's engine: what is kept, what is dropped, what is merged, and why. Import its modules by name."""

__version__ = "0.1.0"
