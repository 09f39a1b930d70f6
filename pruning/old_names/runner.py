"""`pruning.runner` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.engine.run import run
from pruning.engine.session import Compressed

__all__ = ["Compressed", "run"]
