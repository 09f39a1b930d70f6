"""`python -m pruning select`: a decision on arrays, without a model."""

from __future__ import annotations

import argparse
import json
import zipfile

import numpy as np

from pruning.cli.options import settings, written
from pruning.errors import ParameterError


def select_on_arrays(arguments: argparse.Namespace) -> int:
    from pruning.arrays.kinds import select

    try:
        with np.load(arguments.arrays, allow_pickle=False) as file:
            inputs = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ParameterError(
            f"{arguments.arrays} cannot be read as NPZ ({error}).", "Write it with numpy.savez."
        ) from error
    found = select(arguments.kind, inputs, settings(arguments.set))
    if arguments.out:
        written(arguments.out, lambda path: np.savez_compressed(path, **found))
    if arguments.json:
        print(json.dumps({name: value.tolist() for name, value in found.items()}))
    else:
        for name, value in found.items():
            print(f"{name} {value.dtype} {list(value.shape)}")
        if "kept" in found:
            print("kept:", *found["kept"].ravel().tolist())
    return 0
