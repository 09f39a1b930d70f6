"""Find, download, check and open checkpoints."""
