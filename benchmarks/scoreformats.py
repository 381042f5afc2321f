"""Turns the score file of ``weir backtest`` into what each evaluator of a published protocol reads.

It knows the columns of score files, not how scores were made or what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

Convert = Callable[[pa.Table, Path], pa.Table]
"""Takes the score table and the data file it was made from; gives the table that the evaluator reads."""


def fraud(scores: pa.Table, data: Path) -> pa.Table:
    """TRANSACTION_ID and score; the event id is the transaction's id.

    >>> fraud(pa.table({"event_id": ["7", "3"], "score": [0.5, 0.25]}), Path("unused")).to_pydict()
    {'TRANSACTION_ID': [7, 3], 'score': [0.5, 0.25]}
    """
    del data  # the ids are in the scores
    return pa.table({"TRANSACTION_ID": pc.cast(scores["event_id"], pa.int64()), "score": scores["score"]})


def churn(scores: pa.Table, data: Path) -> pa.Table:
    """Device and churn probability; a player is scored once, five days after the first play.

    >>> churn(pa.table({"entity_id": ["p1"], "score": [0.9]}), Path("unused")).to_pydict()
    {'device': ['p1'], 'score': [0.9]}
    """
    del data
    return pa.table({"device": scores["entity_id"], "score": scores["score"]})


def nab(scores: pa.Table, data: Path) -> pa.Table:
    """File, timestamp and anomaly_score in the order of the data, which is how repeated timestamps are told apart."""
    rows, order = _by_row(scores)
    source = pq.read_table(data, columns=["file", "timestamp"]).take(pa.array(rows))
    return source.append_column("anomaly_score", scores["score"].take(pa.array(order)))


def smap(scores: pa.Table, data: Path) -> pa.Table:
    """Entity, t and score of the rows behind the references."""
    numbers, order = _by_row(scores)
    source = pq.read_table(data, columns=["entity", "part", "t"]).take(pa.array(numbers))
    source = source.append_column("score", scores["score"].take(pa.array(order)))
    return source.filter(pc.equal(pc.cast(source["part"], pa.string()), "test")).drop_columns(["part"])


def elec2(scores: pa.Table, data: Path) -> pa.Table:
    """Row number and probability of UP.

    >>> elec2(pa.table({"event_id": ["row-1", "row-0"], "score": [0.5, 0.25]}), Path("unused")).to_pydict()
    {'index': [0, 1], 'probability': [0.25, 0.5]}
    """
    del data
    rows, order = _by_row(scores)
    return pa.table({"index": rows, "probability": scores["score"].take(pa.array(order))})


def rows(scores: pa.Table, data: Path) -> pa.Table:
    """Row and score; the event id is the row's number.

    >>> rows(pa.table({"event_id": ["7", "3"], "score": [0.5, 0.25]}), Path("unused")).to_pydict()
    {'row': [7, 3], 'score': [0.5, 0.25]}
    """
    del data  # the numbers are in the scores
    return pa.table({"row": pc.cast(scores["event_id"], pa.int64()), "score": scores["score"]})


def _by_row(scores: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers behind the event ids ``row-<i>``, sorted, and the order that sorts the scores so."""
    numbers = pc.utf8_slice_codeunits(scores["event_id"], len("row-"))
    rows = np.asarray(pc.cast(numbers, pa.int64()).combine_chunks(), dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    return rows[order], order


def convert_file(convert: Convert, scores: Path, data: Path, target: Path) -> None:
    """Convert a Parquet score file; the target's suffix, ``.csv`` or ``.parquet``, says in what form."""
    table = convert(pq.read_table(scores), data)
    if target.suffix == ".csv":
        pcsv.write_csv(table, target)
    else:
        pq.write_table(table, target, compression="zstd")
