"""Processors without their part for videos, which needs torchvision although no video is ever shown here."""

from __future__ import annotations

from transformers import ProcessorMixin


def pictures_only(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class of the library that opens, and is made, without a video processor."""

    class Pictures(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    Pictures.__name__ = kind.__name__  # is written down when it is saved
    return Pictures
