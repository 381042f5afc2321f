"""Tables as people have them, each with something that a program stumbles over."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rows = dict[str, list[Any]]
N = 240
START = datetime(2025, 3, 1, 8, tzinfo=UTC)


def rows(n: int = N, seed: int = 4) -> Rows:
    """Payments: an id, a time, a customer, an amount, a channel and whether it was fraud."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.2
    at = [START + timedelta(minutes=int(m)) for m in np.cumsum(rng.integers(1, 120, n))]
    return {
        "payment_id": [f"p{i:05d}" for i in range(n)],
        "time": [t.isoformat() for t in at],
        "customer": [f"c{k:02d}" for k in rng.integers(0, 12, n)],
        "amount": np.round(rng.lognormal(3, 1, n) * (1 + 2 * bad), 2).tolist(),
        "channel": rng.choice(["web", "app", "shop"], n).tolist(),
        "fraud": bad.astype(int).tolist(),
    }


def _moments(table: Rows) -> list[datetime]:
    return [datetime.fromisoformat(t) for t in table["time"]]


def csv(table: Rows, separator: str = ",", before: str = "") -> str:
    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        return f'"{text}"' if separator in text else text

    lines = [separator.join(table), *(separator.join(map(cell, row)) for row in zip(*table.values(), strict=True))]
    return before + "\n".join(lines) + "\n"


def _write(path: Path, content: str | bytes) -> list[Path]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [path]


def semicolons_and_commas(folder: Path) -> list[Path]:
    table = rows()
    table["amount"] = [f"{a:,.2f}".translate(str.maketrans(",.", ".,")) for a in table["amount"]]
    table["time"] = [t.strftime("%d.%m.%Y %H:%M") for t in _moments(table)]
    names = ["Zahlungsnr", "Zeitpunkt", "Kunde", "Betrag in €", "Kanal", "Betrug"]
    named = dict(zip(names, table.values(), strict=True))
    named["Betrug"] = ["ja" if f else "nein" for f in table["fraud"]]
    return _write(folder / "zahlungen.csv", csv(named, ";").encode("cp1252"))


def utf_16_and_tabs(folder: Path) -> list[Path]:
    return _write(folder / "payments.tsv", csv(rows(), "\t").encode("utf-16"))


def epoch_milliseconds(folder: Path) -> list[Path]:
    table = rows()
    table["time"] = [int(t.timestamp() * 1000) for t in _moments(table)]
    return _write(folder / "payments.csv", csv(table))


def missing_words(folder: Path) -> list[Path]:
    table = rows()
    table["amount"] = [("NA", "-", "?", "")[i % 4] if i % 5 == 0 else a for i, a in enumerate(table["amount"])]
    table["pressure"] = [-9999 if i % 6 == 0 else 3 + i % 4 for i in range(N)]
    return _write(folder / "payments.csv", csv(table))


def label_words(folder: Path) -> list[Path]:
    table = rows()
    fraud, table["time"] = table.pop("fraud"), [t.removesuffix("+00:00") for t in table["time"]]
    table["outcome"] = ["pending" if i % 9 == 0 else "confirmed fraud" if f else "ok" for i, f in enumerate(fraud)]
    return _write(folder / "payments.csv", csv(table))


def no_label(folder: Path) -> list[Path]:
    table = rows()
    del table["fraud"]
    return _write(folder / "readings.csv", csv(table))


def no_time(folder: Path) -> list[Path]:
    table = rows()
    del table["time"]
    return _write(folder / "payments.csv", csv(table))


def doubled_columns(folder: Path) -> list[Path]:
    text = csv(rows())
    return _write(folder / "payments.csv", text.replace("channel", "amount", 1))


def one_entity(folder: Path) -> list[Path]:
    return _write(folder / "payments.csv", csv(rows() | {"customer": ["c1"] * N}))


def ids_as_floats(folder: Path) -> list[Path]:
    table = rows()
    table["customer_id"] = [float(1000 + int(c[1:])) for c in table.pop("customer")]
    table["payment_id"] = [float(i) for i in range(N)]
    return _write(folder / "payments.csv", csv(table))


def constants_and_leaks(folder: Path) -> list[Path]:
    table = rows()
    at = _moments(table)
    table["currency"], table["empty"], table["betrag"] = ["EUR"] * N, [None] * N, table["amount"]
    table["refunded"] = [10.0 + i % 3 if f else 0.0 for i, f in enumerate(table["fraud"])]
    table["fraud_scenario"] = [i % 3 + 1 if f else 0 for i, f in enumerate(table["fraud"])]
    later = [(t + timedelta(days=2)).isoformat() for t in at]
    table["closed_at"] = [t if f else None for t, f in zip(later, table["fraud"], strict=True)]
    return _write(folder / "payments.csv", csv(table))


def wide(folder: Path) -> list[Path]:
    rng = np.random.default_rng(1)
    table = rows() | {f"v{i}": rng.normal(size=N).round(3).tolist() for i in range(80)}
    return _write(folder / "payments.csv", csv(table))


def tiny(folder: Path) -> list[Path]:
    return _write(folder / "payments.csv", csv({name: cells[:14] for name, cells in rows().items()}))


def unsorted(folder: Path) -> list[Path]:
    table = rows()
    order = np.random.default_rng(3).permutation(N)
    return _write(folder / "payments.csv", csv({name: [cells[i] for i in order] for name, cells in table.items()}))


def nested_json(folder: Path) -> list[Path]:
    table = rows()
    lines = [
        json.dumps({
            "id": i, "at": t, "customer": {"id": c, "tags": ["a", "b"]}, "order": {"amount": a, "lines": [{"x": 1}]},
            "is_fraud": bool(f),
        })
        for i, t, c, a, _, f in zip(*table.values(), strict=True)
    ]  # fmt: skip
    return _write(folder / "payments.jsonl", "\n".join(lines))


def parquet_kinds(folder: Path) -> list[Path]:
    table = rows()
    made = pa.table({
        "time": pa.array(_moments(table), pa.timestamp("ns", tz="Europe/Berlin")),
        "customer": pa.array(table["customer"]).dictionary_encode(),
        "amount": pa.array([Decimal(f"{a:.2f}") for a in table["amount"]], pa.decimal128(12, 2)),
        "tags": pa.array([["x"]] * N),
        "is_new": pa.array([i % 3 == 0 for i in range(N)]),
        "fraud": pa.array(table["fraud"], pa.int8()),
    })  # fmt: skip
    pq.write_table(made, folder / "payments.parquet")
    return [folder / "payments.parquet"]


def two_files(folder: Path) -> list[Path]:
    table = rows()
    half = [{name: cells[part] for name, cells in table.items()} for part in (slice(0, N // 2), slice(N // 2, None))]
    one = _write(folder / "january.csv.gz", gzip.compress(csv(half[0]).encode()))
    return one + _write(folder / "february.csv", csv(half[1] | {"shop": ["s1"] * (N // 2)}))


def folder_of_all_sorts(folder: Path) -> list[Path]:
    _write(folder / "README.md", "# Payments\n")
    _write(folder / "customers.csv", "customer,country\nc01,DE\nc02,FR\n")
    _write(folder / "payments.csv", csv(rows()))
    return [folder]


def day_or_month(folder: Path) -> list[Path]:
    table = rows(96)
    table["time"] = [f"{i // 12 + 1:02d}/{i % 12 + 1:02d}/2025 10:00" for i in range(96)]
    return _write(folder / "payments.csv", csv(table))


def odd_names(folder: Path) -> list[Path]:
    table = rows()
    names = ["ID der Zahlung", "ts", "Customer No.", "class", "hour", "isFraud?"]
    named = dict(zip(names, table.values(), strict=True))
    named |= {"π": [i % 7 for i in range(N)], "a\"b'c": [i % 5 for i in range(N)]}
    return _write(folder / "2025 Zahlungen.csv", "Report of payments\n\n" + csv(named).replace("a\"b'c", '"a""b\'c"'))


def sensors_that_come_and_go(folder: Path) -> list[Path]:
    rng = np.random.default_rng(2)
    at = [int(START.timestamp()) + 60 * i for i in range(N)]
    table: Rows = {"ts": at, "machine": [f"m{i % 3}" for i in range(N)], "ok": [i % 4 != 0 for i in range(N)]}
    for name in ("t0", "t1", "t2"):
        table[name] = [None if rng.random() < 0.5 else float(v) for v in rng.normal(size=N).round(2)]
    pq.write_table(pa.table(table), folder / "machines.parquet")
    return [folder / "machines.parquet"]


def free_text_and_times_of_later(folder: Path) -> list[Path]:
    table = rows()
    table["note"] = [f"line one of {i}" + "x" * 300 for i in range(N)]
    table["time"] = [(START + timedelta(days=i)).isoformat() for i in range(N)]
    table["label_known_at"] = [(START + timedelta(days=i + 40 + f)).isoformat() for i, f in enumerate(table["fraud"])]
    return _write(folder / "payments.csv", csv(table))


TABLES: list[Callable[[Path], list[Path]]] = [
    semicolons_and_commas, utf_16_and_tabs, epoch_milliseconds, missing_words, label_words, no_label, no_time,
    doubled_columns, one_entity, ids_as_floats, constants_and_leaks, wide, tiny, unsorted, nested_json, parquet_kinds,
    two_files, folder_of_all_sorts, day_or_month, odd_names, sensors_that_come_and_go, free_text_and_times_of_later,
]  # fmt: skip
