"""How the bundled model was made: drawn scenes, questions, training, evaluation. The page never imports this."""
