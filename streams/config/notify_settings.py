"""``[serve.notify]``: who is told of alerts, where, and when they want to be left alone."""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from weir.online.decisions.alert_state import Severity
from weir.online.durations import Seconds
from weir.streams.config.frozen_settings import Concern

State = Literal["opened", "escalated", "resolved", "verdict"]
Named = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class NotifyTarget(Concern):
    """Where messages go."""

    name: Named
    """What rules call it."""
    kind: Literal["apprise", "webhook", "alertmanager"]
    """``apprise`` for Slack, mail, Teams, PagerDuty and a hundred more; ``webhook`` is signed (Standard Webhooks)."""
    url: SecretStr = Field(min_length=1)
    """Of apprise, as its documentation says; of the others http or https. It is never shown."""
    secrets: tuple[SecretStr, ...] = Field(default=(), max_length=8)
    """Of a webhook: ``whsec_`` and base64 of 24 to 64 random bytes. While one replaces another, both."""
    allow_private: bool = False
    """Whether it may be on this machine or in a private network."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.kind != "apprise" and not re.match(r"https?://[^/]", self.url.get_secret_value()):
            raise ValueError(f"target {self.name}: a {self.kind} has a url of http:// or https://")
        if bool(self.secrets) != (self.kind == "webhook"):
            raise ValueError(f"target {self.name}: secrets belong to a webhook, which has one or more")
        for secret in self.secrets:
            head, _, text = secret.get_secret_value().rpartition("whsec_")
            try:
                fits = not head and 24 <= len(base64.b64decode(text, validate=True)) <= 64
            except binascii.Error:
                fits = False
            if not fits:
                raise ValueError(f"target {self.name}: a secret is whsec_ and base64 of 24 to 64 random bytes")
        return self


class NotifyRule(Concern):
    """Which alerts are told to whom, and when."""

    model_config = ConfigDict(defer_build=False)  # it is also the body of a request

    name: Named
    """Messages of one name belong together: an alert is told once by each."""
    targets: tuple[str, ...] = Field(min_length=1, max_length=10)
    """Names of ``[[serve.notify.targets]]``."""
    tasks: tuple[str, ...] = Field(default=(), max_length=100)
    """Only alerts of these; of all where it is empty."""
    severity: Severity = "low"
    """At least."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """At least."""
    min_loss: float = Field(default=0.0, ge=0)
    """At least this expected loss: the score times what is at stake."""
    states: tuple[State, ...] = Field(default=("opened", "escalated", "verdict"), min_length=1)
    """What is told of an alert; ``verdict`` also tells that one was taken back."""
    budget: Literal["within", "over"] | None = None
    """Only alerts that are among the task's ``alerts_per_day`` of their day (UTC), or only those that are not."""
    quiet: str | None = None
    """Hours such as ``22:00-07:00``: what falls in them goes out as one message at their end."""
    time_zone: str = "UTC"
    """Of these hours, such as ``Europe/Berlin``."""
    digest: Seconds | None = Field(default=None, ge=60.0, le=604_800.0)
    """Gather what comes for so long, and tell it in one message."""
    urgent: Severity | None = None
    """At least so severe ones wait neither for the end of quiet hours nor for a digest."""
    paused: bool = False
    """Whether it does nothing for now."""

    @field_validator("quiet")
    @classmethod
    def _hours(cls, given: str | None) -> str | None:
        # Equal times could mean all day or never.
        if given is not None and (not _HOURS.fullmatch(given) or given[:5] == given[6:]):
            raise ValueError(f"{given!r}: give two times of a day, as 22:00-07:00")
        return given

    @field_validator("time_zone")
    @classmethod
    def _known(cls, given: str) -> str:
        try:
            # Now: a rule would fail at night, when its hours are looked at first.
            ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f"{given!r}: no such time zone; give one as Europe/Berlin") from exc
        return given


class NotifySettings(Concern):
    """Messages about alerts; docs/NOTIFY.md."""

    targets: tuple[NotifyTarget, ...] = Field(default=(), max_length=50)
    """``[[serve.notify.targets]]``: where messages go."""
    rules: tuple[NotifyRule, ...] = Field(default=(), max_length=50)
    """``[[serve.notify.rules]]``: what is told; people may make more in the console."""
    give_up: Seconds = Field(default=86_400.0, ge=60.0, le=2_592_000.0)
    """So long a message that nobody takes is tried again; older alerts are not told at all."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for kind, given in (("targets", self.targets), ("rules", self.rules)):
            if twice := [name for name, n in Counter(each.name for each in given).items() if n > 1]:
                raise ValueError(f"{kind}: {', '.join(twice)} is there twice; give each a name of its own")
        for rule in self.rules:
            if unknown := self.unknown(rule.targets):
                raise ValueError(f"rule {rule.name}: no target {', '.join(unknown)}; add it, or name another")
        return self

    def unknown(self, targets: Sequence[str]) -> list[str]:
        """Names that are of no target."""
        return [name for name in targets if name not in {target.name for target in self.targets}]
