"""Hooks on the vision tower and the language model that observe attention and states, and drop tokens in a run."""
