"""The world a demo shows, and the tasks it runs; not how that is drawn."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weir.online.task.spec import TaskSpec
from weir.streams.errors import StateError
from weir.streams.simulate import SimulationConfig
from weir.streams.whole_files import write_whole

TASKS: Final = ("fraud", "churn", "device_failure")
PERIODS: Final = 3
"""Periods a stream holds: a run shows one, the next run goes on with the next."""
_BLOCK_HOURS: Final = (1, 2, 3)
_BLOCK_EVENTS: Final = 600
"""Events a block should hold at least: a batch has a price of its own, whatever is in it."""
_DRIFT_AT: Final = 0.4
_FIRST_TRAINING_AT: Final = 0.2
_FILE: Final = "scenario.json"


class Scenario(BaseModel):
    """The content of a demo: equal scenarios make equal streams, however fast the machine is.

    Examples
    --------
    >>> scenario = Scenario(seed=7, events=120_000, days=10)
    >>> scenario.simulation().events, scenario.blocks_per_day, scenario.blocks
    (360000, 12, 360)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=7, ge=0)
    events: int = Field(ge=100)
    """User and device events of one period."""
    days: int = Field(default=60, ge=2, le=1000)
    """Event time of one period."""

    @property
    def blocks_per_day(self) -> int:
        """A block covers an hour of event time, or up to three where an hour holds few events."""
        hourly = self.events / (self.days * 24)
        # Of hours that divide a day: blocks must not straddle its end, at which the simulator draws anew.
        hours = next((h for h in _BLOCK_HOURS if h * hourly >= _BLOCK_EVENTS), _BLOCK_HOURS[-1])
        return 24 // hours

    @property
    def blocks_per_period(self) -> int:
        """Blocks of one period."""
        return self.days * self.blocks_per_day

    @property
    def blocks(self) -> int:
        """Blocks of the whole stream."""
        return PERIODS * self.blocks_per_period

    @property
    def first_training_ts(self) -> float:
        """Event time at which the first full models are asked for, epoch seconds."""
        config = self.simulation()
        return config.start_ts + (config.end_ts - config.start_ts) * _FIRST_TRAINING_AT / PERIODS

    def simulation(self) -> SimulationConfig:
        """The simulated stream; fraud changes its pattern once, in the first period."""
        return SimulationConfig(
            seed=self.seed,
            users=3_000,
            merchants=400,
            devices=80,
            days=PERIODS * self.days,
            events=PERIODS * self.events,
            device_event_share=0.3,
            fraud_share=0.02,
            drift_at=_DRIFT_AT / PERIODS,
            label_delay_days=1.5,
            churn_share=0.6,
            days_between_failures=20.0,
            block_s=86_400.0 / self.blocks_per_day,
        )

    def write(self, directory: Path) -> None:
        """Keep the scenario beside the log it made."""
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / _FILE, f"{self.model_dump_json(indent=2)}\n".encode())

    @classmethod
    def read(cls, directory: Path) -> Scenario | None:
        """The scenario of a directory, ``None`` when it has none; raises ``StateError`` when it cannot be read."""
        path = directory / _FILE
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as exc:
            raise StateError(f"{path}: not a scenario of this version; start over with --fresh") from exc


def demo_tasks() -> list[TaskSpec]:
    """The three tasks, read from the files that ship with the package."""
    folder = files("weir.streams.demo") / "tasks"
    return [TaskSpec.from_toml((folder / f"{name}.toml").read_text(encoding="utf-8"), name) for name in TASKS]
