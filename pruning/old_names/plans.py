"""`pruning.plans` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.records.plan import StructuralPlan

__all__ = ["StructuralPlan"]
