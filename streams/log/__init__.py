"""The embedded log: topics, partitions, offsets and groups in one process."""

from streams.log.batch import Record, RecordBatch
from streams.log.directory import read_directory
from streams.log.embedded import EmbeddedLog, LoggedBatch

__all__ = ["EmbeddedLog", "LoggedBatch", "Record", "RecordBatch", "read_directory"]
