"""One file per family of models: where its parts are, and how it cuts and reads a picture."""
