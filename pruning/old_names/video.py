"""`pruning.video` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.inputs.video import read_video as read_clip

__all__ = ["read_clip"]
