"""Decisions of methods on arrays, without a model: `select(kind, inputs, params)`."""

from pruning.arrays.kinds import KINDS, select

__all__ = ["KINDS", "select"]
