"""One `weir worker --role all` on the topics and addresses that the peers get, with fraud.toml; SIGTERM stops it.

Reads BOOTSTRAP, REDIS_URL, EVENTS, LABELS, OUT and GROUP as ../../../shared/peers/common.py does. Topics that only Weir
needs, the consumer group and the keys in Redis are named after GROUP, so that each run starts from nothing. Any
``WEIR_*`` variable works as always.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from weir.streams.cli.main import run
from weir.streams.config import topics
from weir.streams.config.settings import load_settings
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics

TASK = Path(__file__).resolve().parent / "fraud.toml"
PARTITIONS = 4  # of the topics that workload.py makes


def settings_text() -> str:
    """The settings file, from the environment."""
    env = os.environ.get
    group = env("GROUP", "peer-weir")
    names = {
        topics.USER_EVENTS: env("EVENTS", "user-events"),
        topics.LABELS: env("LABELS", "labels"),
        topics.PREDICTIONS: env("OUT", "weir-predictions"),
    }
    tables: dict[str, dict[str, object]] = {
        "kafka": {"bootstrap": env("BOOTSTRAP", "127.0.0.1:9092")},
        "redis": {"url": env("REDIS_URL", "redis://127.0.0.1:6379/0"), "prefix": group[:50]},
        "topics": {"partitions": PARTITIONS, "replication": 1, "prefix": f"{group}."},
        "topics.names": dict(names),
        "worker": {"role": "all", "group": group, "tasks": [str(TASK)], "web_port": 0},
        # The peers refuse nothing, and their client may send a batch again behind its successors.
        "worker.intake": {"allowed_lateness": "60d"},
    }
    return "".join(
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for table, values in tables.items()
    )


def create_missing(config: Path) -> None:
    """Make the topics that are not there; whoever feeds us made the three of the work."""
    settings = load_settings(config)
    with admin_client(settings.kafka) as admin:
        wanted = wanted_topics(settings.topics, 1)
        there = cluster.read_topics(admin, [spec.name for spec in wanted])
        cluster.create_topics(admin, [spec for spec in wanted if spec.name not in there], False)


def main() -> None:
    """Run until told to stop."""
    with tempfile.TemporaryDirectory(prefix="weir-peer-") as folder:
        config = Path(folder) / "weir.toml"
        config.write_text(settings_text())
        create_missing(config)
        sys.argv = ["weir", "worker", "--role", "all", "--config", str(config)]
        run()


if __name__ == "__main__":
    main()
