"""Realistic, seeded streams of users, merchants and machines in wire format v1."""

from weir.streams.simulate.config import TOPICS, SimulationConfig
from weir.streams.simulate.generator import Record, RecordBlock, simulate

__all__ = ["TOPICS", "Record", "RecordBlock", "SimulationConfig", "simulate"]
