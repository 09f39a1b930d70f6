"""A method's decision on arrays that you bring, without any model: `select(kind, inputs, params)`."""

from pruning.arrays.kinds import KINDS, select

__all__ = ["KINDS", "select"]
