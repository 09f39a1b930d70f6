"""`pruning.decision_file` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.records.decisions import read_decision

__all__ = ["read_decision"]
