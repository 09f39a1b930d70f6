"""The registry of compensators, which add text for what was pruned. A new one is one file and one line here.

`pruning.engine.compensate.open_compensator` opens one for a loaded model.
"""

from __future__ import annotations

from pruning.compensation.accm import Accm
from pruning.compensation.base import Compensator
from pruning.compensation.untrained import UntrainedCaptioner

COMPENSATORS: dict[str, type[Compensator]] = {c.key: c for c in (Accm, UntrainedCaptioner)}
