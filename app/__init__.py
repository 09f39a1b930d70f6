"""The page. This file must exist: without it `import app` finds app.py beside it and everything fails."""
