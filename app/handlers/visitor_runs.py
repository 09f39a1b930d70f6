"""Keep the last run and the structural plan of every visitor, and find the run that a browser names."""

from __future__ import annotations

from typing import Any

from app.handlers.exports import recipe_of
from app.media.album import Album
from app.serving.caches import BoundedCache
from app.session import SessionState
from pruning.errors import PlanError, RecordFormatError
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord

KEPT_RUNS = 64  # visitors whose last run can be exported
LIVE = {"kind": "live"}


class VisitorRuns:
    """Runs and plans of visitors, by session.

    Attributes:
        last: state and record of a visitor's last live or opened run.
        plans: the structural plan that a visitor made or opened last.
    """

    def __init__(self, album: Album) -> None:
        self.album = album
        self.last, self.plans = BoundedCache(KEPT_RUNS), BoundedCache(KEPT_RUNS)

    def find(self, source: Any, session: str) -> tuple[SessionState, RunRecord]:
        """Return state and record of the run named by a source that `recipe_of` wrote.

        Raises:
            RecordFormatError: if it is gone.
        """
        examples = self.album.examples
        if isinstance(source, dict) and source.get("kind") == "recorded":
            number = min(max(int(source.get("example", 0)), 0), len(examples) - 1)
            if source.get("more"):
                return SessionState(f"example:{number}"), examples[number].recorded_more(str(source["more"]))
            record = examples[number].recording(str(source.get("method")), int(source.get("count", 0)))
            return SessionState(f"example:{number}"), record
        known = self.last.get(session)
        if known is None:
            raise RecordFormatError("That run is no longer here.", "Press Run, then export it.")
        return known

    def find_with_plan(self, source: Any, session: str) -> tuple[SessionState, RunRecord, StructuralPlan | None]:
        """Return the same as `find`, and the plan that the run had, if any.

        Raises:
            PruningError: if the run or its plan is gone.
        """
        state, record = self.find(source, session)
        structure = record.request.structure
        return state, record, self.plan_of(session, structure) if structure else None

    def plan_of(self, session: str, digest: str = "") -> StructuralPlan:
        """Return the visitor's plan; with a digest, only that one.

        Raises:
            PlanError: if there is none.
        """
        mine = self.plans.get(session)
        if mine is None or digest not in ("", mine.plan.digest):
            raise PlanError(
                "The plan of that run is not at hand.", "Make one under Weight pruning, or open its file there."
            )
        return mine.plan

    def remember(self, session: str, state: SessionState, record: RunRecord) -> None:
        """Make a record the run that a visitor can export."""
        self.last.put(session, (state, record))

    def recipe(self, state: SessionState, record: RunRecord) -> dict[str, Any]:
        """Return how to repeat a visitor's last run."""
        example = self.album.example(state)
        where = () if example is None else (example.key, example.place)
        return recipe_of(record, LIVE, *where)
