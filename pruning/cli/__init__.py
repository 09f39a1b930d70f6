"""`python -m pruning`: one module for each command, and `parser`, which puts them together."""
