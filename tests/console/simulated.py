"""A service with something to look at: simulated streams up to now, with open alerts of all three tasks of the demo."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.integration.kafka_broker import REPOSITORY, eventually
from tests.integration.serve_process import TOKEN, Served
from weir.streams.client.client import Client
from weir.streams.config import topics
from weir.streams.simulate import SimulationConfig, simulate

TASKS = {path.stem: path.read_text() for path in sorted((REPOSITORY / "streams/demo/tasks").glob("*.toml"))}
DAYS = 24
_DAY_S = 86_400.0
_SETTINGS = """
[[serve.notify.targets]]
name = "mail"
kind = "apprise"
url = "mailto://weir:secret@mail.example"
[[serve.notify.rules]]
name = "once-a-week"  # so that nothing goes out while the pages are looked at
targets = ["mail"]
digest = "7d"
quiet = "22:00-07:00"
time_zone = "Europe/Berlin"
"""
_BLOCKS_OF_A_DAY = 4
_HELD = 2 * _BLOCKS_OF_A_DAY


def streams(end: float, events: int = 36_000) -> SimulationConfig:
    """Streams that end at ``end``: event time is the service's clock, and the last days have no labels yet."""
    return SimulationConfig(
        seed=7, users=700, merchants=80, devices=24, days=DAYS, events=events, start_ts=end - DAYS * _DAY_S,
        fraud_share=0.03, drift_at=0.7, label_delay_days=0.5, churn_share=0.6, days_between_failures=6.0,
        device_event_share=0.3, block_s=_DAY_S / _BLOCKS_OF_A_DAY,
    )  # fmt: skip


Body = tuple[str, bytes]
"""A topic, and lines of records to send."""


class Filled(Served):
    """A service that was sent the streams but for their last two days."""

    def __init__(self, folder: Path, tasks: dict[str, str]) -> None:
        super().__init__(folder, tasks)
        self.later: list[list[Body]] = []
        """Blocks of six hours that a test may send, each once and in this order: new alerts come with them."""


def filled(folder: Path, events: int = 36_000, tasks: dict[str, str] | None = None) -> Filled:
    """A service of the demo's tasks in ``folder`` that was sent the streams; who asks for it ends it."""
    (folder / "weir.toml").write_text(_SETTINGS)
    served = Filled(folder, TASKS if tasks is None else tasks)
    blocks = [
        [(topic, body) for topic, records in block.topics.items() if (body := b"\n".join(r[1] for r in records))]
        for block in simulate(streams(time.time() - 60.0, events))
    ]
    served.later = blocks[-_HELD:]
    try:
        served.start()
        with Client(served.url, TOKEN) as client:
            refused = sum(send(client, block) for block in blocks[:-_HELD])
            assert refused, "the simulator's malformed records were to be dead letters"
            eventually(lambda: set(open_alerts(client)) == set(TASKS), 30, "open alerts of every task")
    except BaseException:
        served.__exit__()
        raise
    return served


def send(client: Client, block: list[Body]) -> int:
    """Send a block; what came a day later than newer events would be late. How many records were refused."""
    sent = [
        (client.send_labels if topic == topics.LABELS else client.send_events)(body).refused for topic, body in block
    ]
    return sum(sent)


def open_alerts(client: Client) -> Counter[str]:
    """How many alerts are open, by task."""
    return Counter(alert["task"] for alert in client.alerts() if alert["state"] in ("open", "escalated"))


def an_alert(client: Client, task: str = "fraud") -> str:
    """The newest open alert of a task."""
    return next(str(a["alert_id"]) for a in client.alerts(task=task) if a["state"] in ("open", "escalated"))


def work(client: Client) -> None:
    """What a morning of an analyst leaves: verdicts, a note, claims, a hold, a snooze, a model that is asked for."""
    ids = [a["alert_id"] for a in client.alerts(task="fraud") if a["state"] in ("open", "escalated")]
    client.verdict(ids[2], "false_alarm", note="travels for work; the bank has confirmed it")
    client.verdict(ids[3], "confirmed", note="called the customer: the card was stolen in the train")
    client.post(f"/v1/alerts/{ids[4]}/notes", note="waits for the answer of the shop")
    client.post(f"/v1/alerts/{ids[5]}/assign", for_s=3600)
    client.post(f"/v1/alerts/{ids[6]}/hold", for_s=7200)
    client.post("/v1/snoozes", task="churn", kind="entity", of=client.alert(an_alert(client, "churn"))["entity_id"],
                for_s=7 * _DAY_S, note="a test account")  # fmt: skip
    client.retrain("fraud", "the weekly look")
