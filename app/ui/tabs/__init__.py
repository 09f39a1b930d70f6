"""One file per tab: arrangement and wiring."""
