"""Options that several commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pruning.errors import ParameterError


def written(path: Path, write: Callable[[Path], Any]) -> Any:
    try:
        return write(path)
    except OSError as error:
        raise ParameterError(f"{path} cannot be written ({error.strerror}).", "Choose another --out.") from error


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON where it can be read as such, else text."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"{pair!r} is not NAME=VALUE.", "Write for example --set alpha=0.5.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def number(text: str) -> float:
    """A number from the command line, or a sentence about it."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
