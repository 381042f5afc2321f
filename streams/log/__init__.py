"""The embedded log: topics, partitions, offsets and groups in one process."""

from streams.log.embedded import EmbeddedLog, Record, RecordBatch

__all__ = ["EmbeddedLog", "Record", "RecordBatch"]
