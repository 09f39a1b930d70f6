"""Records become pictures here. Pure functions: no torch, no gradio, nothing shown and nothing saved."""
