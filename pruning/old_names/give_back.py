"""`pruning.give_back` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.engine.compensate import open_compensator

__all__ = ["open_compensator"]
