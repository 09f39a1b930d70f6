"""The weights of attention heads and feed-forward matrices: facts, gates, and copies with some of them removed."""
