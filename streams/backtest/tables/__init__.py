"""Turns files of any layout into columns of texts, numbers and times, and says what it decided of them."""

from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.formats import FileTable, read_files
from weir.streams.backtest.tables.label_words import read_labels
from weir.streams.backtest.tables.numbers import NumberColumn, read_numbers
from weir.streams.backtest.tables.opening import contents, files_of, place, readable
from weir.streams.backtest.tables.texts import BLANK, MISSING, MISSING_TEXTS, Cells, read_ids

__all__ = [
    "BLANK", "MISSING", "MISSING_TEXTS", "Cells", "FileTable", "NumberColumn",
    "contents", "files_of", "place", "read_files", "read_ids", "read_labels", "read_numbers", "read_times", "readable",
]  # fmt: skip
