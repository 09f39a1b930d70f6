"""The recipe of the bundled model: its drawn world, its questions, its training. The page never imports this."""
