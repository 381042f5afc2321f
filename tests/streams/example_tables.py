"""Small seeded tables in the shapes of public data sets, for the task files of docs/examples.

Columns, ways of writing and delays of labels are those of the public sets; the rows are made up, with something in them
that the task can learn. ``python tests/streams/example_tables.py FOLDER`` writes all five as CSV.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
from numpy.typing import NDArray

DAY = 86_400
START = 1_704_067_200
"""2024-01-01."""


def stamps(seconds: NDArray[Any], form: str = "%Y-%m-%d %H:%M:%S") -> list[str]:
    """Times as texts."""
    return [t.strftime(form) for t in seconds.astype("datetime64[s]").tolist()]


def card_fraud(n: int = 4_000, seed: int = 1) -> pa.Table:
    """Payments as in the Fraud Detection Handbook: terminals are skimmed for four weeks, and large sums are odd."""
    rng = np.random.default_rng(seed)
    at = np.sort(START + rng.integers(0, 84 * DAY, n))
    customer, terminal = rng.integers(0, 80, n), rng.integers(0, 40, n)
    usual = rng.gamma(4.0, 12.0, 80)
    amount = np.maximum(usual[customer] * rng.lognormal(0.0, 0.3, n), 1.0)
    day = (at - START) // DAY
    skimmed = (terminal % 10 == day // 28) & (rng.random(n) < 0.7)
    stolen = rng.random(n) < 0.01
    amount = np.where(stolen, amount * 6, amount)
    return pa.table(
        {
            "TRANSACTION_ID": np.arange(n),
            "TX_DATETIME": stamps(at),
            "CUSTOMER_ID": customer,
            "TERMINAL_ID": terminal,
            "TX_AMOUNT": amount.round(2),
            "TX_FRAUD": (skimmed | stolen).astype(int),
        }
    )


def subscription_churn(members: int = 320, seed: int = 2) -> pa.Table:
    """Renewals as in the KKBox churn challenge: is there another within 30 days of the plan's end?"""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for member in range(members):
        at, auto = START + int(rng.integers(0, 150 * DAY)), bool(rng.random() < 0.6)
        for renewal in range(12):
            paid = 99 if rng.random() < 0.3 else 149
            cancel = rng.random() < (0.04 if auto else 0.15)
            gone = rng.random() < (0.9 if cancel else 0.02 if auto else 0.1 + 0.3 * (paid == 149) * (renewal < 2))
            end = at + 30 * DAY
            pause = int(rng.integers(0, 3 * DAY if auto else 20 * DAY))
            known = end + (30 * DAY if gone else pause)
            rows.append((f"m{member:04}", at, 30, paid, int(auto), int(cancel), int(gone), known))
            at = end + pause
            if gone or at > START + 320 * DAY:
                break
    rows.sort(key=lambda row: row[1])
    who, at_, plan, paid_, auto_, cancel_, churn, known_ = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "msno": who,
            "transaction_date": stamps(np.array(at_), "%Y%m%d"),
            "payment_plan_days": plan,
            "actual_amount_paid": paid_,
            "is_auto_renew": auto_,
            "is_cancel": cancel_,
            "is_churn": churn,
            "known_at": stamps(np.array(known_), "%Y%m%d"),
        }
    )


def bookings(n: int = 2_500, seed: int = 3) -> pa.Table:
    """Bookings as in Antonio et al. (2019): a cancellation is known sooner than a stay."""
    rng = np.random.default_rng(seed)
    at = np.sort(START + rng.integers(0, 300 * DAY, n))
    lead, nights = rng.gamma(1.2, 30.0, n).astype(int), rng.integers(1, 8, n)
    segment = rng.choice(
        ["Online TA", "Offline TA/TO", "Groups", "Direct", "Corporate"], n, p=[0.5, 0.2, 0.1, 0.15, 0.05]
    )
    agent = rng.integers(1, 30, n)
    deposit = np.where(rng.random(n) < 0.08, "Non Refund", "No Deposit")
    logit = -2.6 + 0.025 * lead + 1.5 * (segment == "Groups") + 5.0 * (deposit == "Non Refund") + 2.0 * (agent % 7 == 0)
    cancelled = rng.random(n) < 1 / (1 + np.exp(-logit))
    left = at + (lead + nights) * DAY
    known = np.where(cancelled, at + rng.random(n) * lead * DAY, left)
    return pa.table(
        {
            "hotel": rng.choice(["City Hotel", "Resort Hotel"], n),
            "booked_at": stamps(at),
            "lead_time": lead,
            "nights": nights,
            "adr": rng.gamma(9.0, 11.0, n).round(2),
            "market_segment": segment,
            "agent": [f"agent-{a}" for a in agent],
            "deposit_type": deposit,
            "is_canceled": np.where(cancelled, "Canceled", "Check-Out"),
            "reservation_status_date": stamps(known.astype(int)),
        }
    )


def drives(count: int = 40, days: int = 120, seed: int = 4) -> pa.Table:
    """Drives as in Backblaze's statistics: a snapshot a day, and the counters of a dying drive rise."""
    rng = np.random.default_rng(seed)
    dies = np.where(rng.random(count) < 0.6, rng.integers(20, days, count), days + 365)
    day, drive = (each.ravel() for each in np.mgrid[0:days, 0:count])
    there = day <= dies[drive]
    day, drive = day[there], drive[there]
    left = dies[drive] - day
    worn = np.maximum(34 - left, 0) * (drive % 9 > 0)  # some die without a sign
    known = np.where(left <= 30, day + left, day + 30)
    return pa.table(
        {
            "date": stamps(START + day * DAY, "%Y-%m-%d"),
            "serial_number": [f"ZA1{d:05}" for d in drive],
            "model": np.where(drive % 3 == 0, "ST4000DM000", "HGST HMS5C4040"),
            "smart_5_raw": (worn * 8 + (drive % 5 == 0) * (day // 3)).astype(int),
            "smart_9_raw": 8_000 + 24 * day + drive * 100,
            "smart_187_raw": np.maximum(worn - 10, 0).astype(int),
            "smart_197_raw": pa.array(worn.astype(int), mask=drive % 3 == 1),
            "fails_in_30_days": (left <= 30).astype(int),
            "label_date": stamps(START + known * DAY, "%Y-%m-%d"),
        }
    )


def telemetry(rows: int = 1_200, seed: int = 5) -> pa.Table:
    """Sensors as in the SMAP and pump data: three machines, a row a minute, one slips out of its usual state."""
    rng = np.random.default_rng(seed)
    minute, machine = (each.ravel() for each in np.mgrid[0:rows, 0:3])
    load = 10 + 2 * np.sin(minute / 60) + rng.normal(0, 0.3, len(minute))
    broken = (machine == 1) & (minute >= 800) & (minute < 950)
    return pa.table(
        {
            "timestamp": (START + 60 * minute) * 1_000,
            "machine": [f"pump-{m}" for m in machine],
            "flow": (load * 3 - 10.0 * broken + rng.normal(0, 0.2, len(minute))).round(3),
            "pressure": (load / 2 + rng.normal(0, 0.1, len(minute))).round(3),
            "current": (load * 1.5 + rng.normal(0, 0.2, len(minute))).round(3),
        }
    )


TABLES: dict[str, Callable[[], pa.Table]] = {
    made.__name__: made for made in (card_fraud, subscription_churn, bookings, drives, telemetry)
}

if __name__ == "__main__":
    for name, made in TABLES.items():
        pcsv.write_csv(made(), Path(sys.argv[1]) / f"{name}.csv")
