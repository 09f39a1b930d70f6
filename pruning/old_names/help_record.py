"""`pruning.help_record` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.records.compensation import Compensation

__all__ = ["Compensation"]
