"""PruneScope's engine: which visual tokens are kept, dropped or merged, at which layer, and why.

The names below are loaded when they are first used, so `import pruning` costs nothing:

    from pruning import RunRequest, load, read_image, run

    model = load("demo")
    record = run(RunRequest("demo", "resprune", 64 / 576, "What color is the cross?"), model, read_image("a.jpg"))
    print(record.pruned.text, record.kept)
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"
_PUBLIC = {
    "load": "pruning.models",
    "MODELS": "pruning.models",
    "METHODS": "pruning.methods",
    "read_image": "pruning.inputs.images",
    "read_video": "pruning.inputs.video",
    "run": "pruning.engine.run",
    "Compressed": "pruning.engine.session",
    "open_compensator": "pruning.engine.compensate",
    "RunRequest": "pruning.records.run",
    "RunRecord": "pruning.records.run",
    "StructuralPlan": "pruning.records.plan",
    "Compensation": "pruning.records.compensation",
    "read_decision": "pruning.records.decisions",
}
__all__ = ["__version__", *_PUBLIC]
# Python that people exported names modules of before December 2026; they stay importable for one release.
__path__.append(str(Path(__file__).parent / "old_names"))


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pruning' has no attribute {name!r}; it has {', '.join(_PUBLIC)}.")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
