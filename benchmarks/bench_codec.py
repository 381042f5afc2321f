"""What decoding, columns, dedupe and encoding cost per event, beside pydantic and orjson in the same run.

Run: ``python benchmarks/bench_codec.py [--events 2000] [--repeats 30]``; prints a table, then one JSON line.
Times are CPU time (other work on the machine does not count), the best of the repeats, in microseconds an event.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from weir.online.batch import EventBatch, PredictionBatch, UpdateBatch
from weir.online.codec.accept import accept_records
from weir.online.codec.columns import ColumnRequest, event_columns
from weir.online.codec.decision_blocks import DecisionBatch, decisions_on, decode_decisions, encode_decisions
from weir.online.codec.decode import decode_user_events, events_from_rows
from weir.online.codec.encode import encode_predictions
from weir.online.codec.hot_structs import decoders
from weir.online.codec.row_updates import decode_updates, encode_updates
from weir.online.codec.scan import find_suspects
from weir.online.codec.wire import UserEvent
from weir.online.decisions.alert_state import AlertState, Reason
from weir.online.stages.dedupe import Deduper, bytes_for
from weir.streams.kafka.produce.record_batches import Columns, encoded_batches
from weir.streams.records import Record

COLUMNS = ColumnRequest(entities=("user_id", "merchant_id", "device_id"), numbers=("amount",), texts=("channel",))
UPDATE_VALUES = 3
FEATURES = 12


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Events as the workload of the peers makes them."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 5_000, count).tolist()
    ts = (1.7e9 + np.sort(rng.uniform(0, 60 * 86_400.0, count))).tolist()
    amounts = np.round(rng.lognormal(3.2, 0.8, count), 2).tolist()
    return [
        {
            "v": 1,
            "event_id": f"e{seed}-{i:09d}",
            "type": "purchase",
            "user_id": f"u{users[i]}",
            "ts": ts[i],
            "amount": amounts[i],
            "merchant_id": f"m{i % 997}",
            "device_id": f"d{users[i] % 1511}",
            "channel": "web",
        }
        for i in range(count)
    ]


def predictions_of(events: EventBatch, seed: int) -> PredictionBatch:
    """A score and 12 features for each event, a third of them whole numbers as counts and flags are."""
    rng = np.random.default_rng(seed)
    features = rng.lognormal(3.0, 1.0, (len(events), FEATURES))
    features[:, ::3] = np.floor(features[:, ::3])
    version = np.arange(len(events))
    score = rng.uniform(0, 1, len(events))
    return PredictionBatch(
        event_id=events.event_id,
        entity_id=[user or "" for user in events.entities["user_id"]],
        ts=events.ts,
        score=score,
        model_version=version,
        features=features,
    )


def orjson_predictions(batch: PredictionBatch, names: tuple[str, ...]) -> list[bytes]:
    """What one writes by hand: a dict an event."""
    rows = zip(
        batch.event_id,
        batch.entity_id,
        batch.ts.tolist(),
        batch.score.tolist(),
        batch.model_version.tolist(),
        batch.features.tolist(),
        strict=True,
    )
    return [
        orjson.dumps(
            {
                "v": 1,
                "event_id": event_id,
                "entity_id": entity_id,
                "task": "fraud",
                "ts": ts,
                "score": score,
                "model_version": version,
                "features": dict(zip(names, features, strict=True)),
                "scored_at": 1.7e9,
                "degraded": False,
            }
        )
        for event_id, entity_id, ts, score, version, features in rows
    ]


def updates_of(events: EventBatch, seed: int) -> UpdateBatch:
    """An update of a row of another partition for each event."""
    values = np.random.default_rng(seed).lognormal(3.0, 1.0, (len(events), UPDATE_VALUES))
    return UpdateBatch(events.event_id, [f"shop-{i % 500}" for i in range(len(events))], events.ts, values)


def updates_json(updates: UpdateBatch) -> list[bytes]:
    """Updates as versions before blocks wrote them, one a record."""
    rows = zip(updates.update_id, updates.entity_id, updates.ts.tolist(), updates.values.tolist(), strict=True)
    return [
        orjson.dumps(
            {"v": 1, "update_id": u, "task": "fraud", "table": "merchant", "entity_id": e, "ts": t, "values": v}
        )
        for u, e, t, v in rows
    ]


def decisions_of(predictions: PredictionBatch, names: Sequence[str]) -> DecisionBatch:
    """A decision on each prediction, of which one in a hundred belongs to an alert."""
    line, reason = 0.8, Reason(names[0], 17.0, 2.1, "17 events in 1 h (usually 2)")
    alert = AlertState("fraud:u:e", "fraud", "u", "open", "high", 0.9, line, (reason,) * 4, 1.7e9, 1.7e9, ("e",))
    alerts = dict.fromkeys(range(0, len(predictions), 100), alert)
    return decisions_on(predictions, np.full(len(predictions), line), alerts, names)


def main() -> None:
    """Measure, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000, help="events a batch")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    count = args.events

    rows = rows_of(count, seed=7)
    bare = [{name: value for name, value in row.items() if name != "v"} for row in rows]
    raw = [orjson.dumps(row) for row in rows]
    one_bad = [*raw[:-1], raw[-1].replace(b'"amount":', b'"amount":-')]
    joined, sizes = b",".join(raw), np.array([len(record) for record in raw])
    many = decoders(UserEvent)[1]
    accepted = accept_records(UserEvent, raw)
    events = decode_user_events(raw, COLUMNS).batch
    predictions = predictions_of(events, seed=7)
    names = tuple(f"feature_{i:02d}" for i in range(FEATURES))
    full = Deduper(most_bytes=bytes_for(200_000))
    full.keep([f"old{i}" for i in range(199_999)], np.full(199_999, 1.7e9))
    fresh = iter([[f"n{k}-{i}" for i in range(count)] for k in range(args.repeats)])

    work: dict[str, Callable[[], object]] = {
        "decode: scan bytes": lambda: find_suspects(joined, sizes),
        "decode: msgspec alone": lambda: many.decode(b"[" + joined + b"]"),
        "decode + validate": lambda: accept_records(UserEvent, raw),
        "columns": lambda: event_columns(UserEvent, accepted.structs, accepted.ts, COLUMNS),
        "decode + validate + columns": lambda: decode_user_events(raw, COLUMNS),
        "the same, one bad record a batch": lambda: decode_user_events(one_bad, COLUMNS),
        "rows to columns": lambda: events_from_rows(bare, COLUMNS),
        "dedupe, all new": lambda: full.keep(next(fresh), events.ts),
        "dedupe, all repeats": lambda: full.keep(events.event_id, events.ts),
        "encode predictions": lambda: encode_predictions(predictions, names, "fraud", 1.7e9),
        "pydantic model_validate_json": lambda: [UserEvent.model_validate_json(record) for record in raw],
        "orjson.loads, no checks": lambda: [orjson.loads(record) for record in raw],
        "orjson.dumps of prediction dicts": lambda: orjson_predictions(predictions, names),
    }
    of_json = updates_json(updates := updates_of(events, seed=7))
    block, widths = encode_updates(updates, "fraud", "merchant", 1 << 30), {("fraud", "merchant"): UPDATE_VALUES}
    work |= {
        "encode updates, blocks": lambda: encode_updates(updates, "fraud", "merchant", 1 << 30),
        "decode updates, blocks": lambda: decode_updates(block, widths),
        "decode updates, JSON of before": lambda: decode_updates(of_json, widths),
        "orjson.dumps of updates": lambda: updates_json(updates),
    }
    decided = decisions_of(predictions, names)
    blocks = encode_decisions(decided, "fraud", 1.7e9)
    work |= {
        "encode decisions": lambda: encode_decisions(decisions_of(predictions, names), "fraud", 1.7e9),
        "decode decisions": lambda: [decode_decisions(each) for each in blocks],
        "decode decisions, to rows": lambda: [[*decode_decisions(each).batch.rows()] for each in blocks],
    }
    columns = Columns.of([Record(key.encode(), value, 1.7e9) for key, value in zip(
        predictions.entity_id, encode_predictions(predictions, names, "fraud", 1.7e9), strict=True
    )])  # fmt: skip

    def batches(codec: str) -> int:
        return sum(len(each._build()) for each in encoded_batches(columns, np.arange(count), 1 << 18, codec))

    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        work[f"batches of predictions, {codec}"] = partial(batches, codec)
        print(f"a prediction takes {batches(codec) / count:.0f} B in a batch, {codec}")
    print(f"a decision takes {sum(map(len, blocks)) / count:.0f} B")
    sizes_b = {"block": sum(map(len, block)) / count, "json": sum(map(len, of_json)) / count}
    print(f"an update takes {sizes_b['block']:.0f} B in a block, {sizes_b['json']:.0f} B as JSON")
    report(best_us(work, args.repeats, count), count, len(joined) / count)


def best_us(work: dict[str, Callable[[], object]], repeats: int, count: int) -> dict[str, float]:
    """CPU microseconds an event in the best of the repeats; stages take turns, so that a busy spell meets them all."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, run in work.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return {name: seconds / count * 1e6 for name, seconds in best.items()}


def report(cost: dict[str, float], count: int, record_bytes: float) -> None:
    """Print the table and the JSON line."""
    decode_base, encode_base = cost["pydantic model_validate_json"], cost["orjson.dumps of prediction dicts"]
    table = Table(title=f"{count} events a batch, {record_bytes:.0f} bytes an event, {FEATURES} features")
    table.add_column("stage")
    table.add_column("CPU us/event", justify="right")
    table.add_column("peer's cost / this", justify="right")
    for name, us in cost.items():
        base = encode_base if "predictions" in name or "prediction dicts" in name else decode_base
        table.add_row(name, f"{us:.3f}", f"{base / us:.1f}")
    Console(width=110).print(table)
    print(json.dumps({"events": count, "us_per_event": {name: round(us, 4) for name, us in cost.items()}}))


if __name__ == "__main__":
    main()
