"""How fast streams are generated: records/s of ``weir.streams.simulate``, best of three. Prints one JSON line.

Run: ``python benchmarks/bench_simulate.py [EVENTS]``
"""

from __future__ import annotations

import json
import sys
import time

from weir.streams.simulate import SimulationConfig, simulate


def measure(events: int) -> tuple[int, int, float, float]:
    """Records, bytes, seconds and processor seconds of generating a stream of ``events`` events."""
    started, cpu_started = time.perf_counter(), time.process_time()
    records = size = 0
    for block in simulate(SimulationConfig(events=events)):
        records += len(block)
        size += sum(len(value) for lane in block.topics.values() for _, value, _ in lane)
    return records, size, time.perf_counter() - started, time.process_time() - cpu_started


def main() -> None:
    """Measure three times and print the best as JSON."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    records, size, seconds, cpu_seconds = min((measure(events) for _ in range(3)), key=lambda run: run[2])
    result = {
        "benchmark": "simulate",
        "events": events,
        "records": records,
        "records_per_s": round(records / seconds),
        "records_per_cpu_s": round(records / cpu_seconds),
        "mb_per_s": round(size / seconds / 1e6, 1),
        "us_per_record": round(seconds / records * 1e6, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
