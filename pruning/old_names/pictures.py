"""`pruning.pictures` as exported Python of earlier versions imports it; use the names of `pruning` instead."""

from pruning.inputs.images import read_image as read_picture

__all__ = ["read_picture"]
