"""Figures computed from run records: fates of tokens, agreement of answers, diagnostics, cost of plans."""
