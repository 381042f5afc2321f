"""The embedded log: topics, partitions, offsets and groups in one process."""

from streams.log.batch import Record, RecordBatch, Refused, oversized
from streams.log.directory import read_directory
from streams.log.embedded import EmbeddedLog, LoggedBatch

__all__ = ["EmbeddedLog", "LoggedBatch", "Record", "RecordBatch", "Refused", "oversized", "read_directory"]
