"""The recipe of the bundled model: drawn scenes, questions, training, evaluation. The page never imports it."""
