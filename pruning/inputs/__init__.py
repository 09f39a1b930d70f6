"""Read and check what a person brings: images, videos, questions, data sets."""
