"""Model families of the transformers library, one module for each: how it lays out and encodes visual tokens."""
