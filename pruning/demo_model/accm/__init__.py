"""Training and evaluation of ACCM, which compensates for pruning with captions."""
