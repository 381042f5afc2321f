"""Turns files of any layout into columns of texts, numbers and times, and says what it decided of them."""

from streams.tables.formats import FileTable, read_files
from streams.tables.labels import read_labels
from streams.tables.numbers import NumberColumn, read_numbers
from streams.tables.opening import contents, files_of, place, readable
from streams.tables.texts import MISSING, MISSING_TEXTS, Cells, read_ids
from streams.tables.times import read_times

__all__ = [
    "MISSING", "MISSING_TEXTS", "Cells", "FileTable", "NumberColumn",
    "contents", "files_of", "place", "read_files", "read_ids", "read_labels", "read_numbers", "read_times", "readable",
]  # fmt: skip
