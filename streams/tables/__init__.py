"""Turns files of any layout into columns of texts, numbers and times, and says what it decided of them."""

from streams.tables.formats import FileTable, read_files
from streams.tables.labels import LabelWords, read_labels
from streams.tables.numbers import ColumnRead, NumberColumn, NumberStyle, read_numbers
from streams.tables.texts import MISSING, MISSING_TEXTS, as_text, read_ids, without_missing
from streams.tables.times import read_times

__all__ = [
    "MISSING", "MISSING_TEXTS", "ColumnRead", "FileTable", "LabelWords", "NumberColumn", "NumberStyle", "as_text",
    "read_files", "read_ids", "read_labels", "read_numbers", "read_times", "without_missing",
]  # fmt: skip
