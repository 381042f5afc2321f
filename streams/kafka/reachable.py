"""Why the brokers do not let us in, in one sentence; and aiokafka kept calm while one is away.

Why a connection failed is only in aiokafka's log, so one is tried once more here. By itself aiokafka would try to
connect without a pause and log every attempt: measured with one broker stopped for 8 s, 4,700 attempts and 9,400 lines
of log, on a core that others need.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Collection, Iterable
from typing import Any, Final

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from weir.streams.errors import BrokerError, in_words
from weir.streams.kafka.transport_settings import LinkSecurity


def grant(security: LinkSecurity, what: str) -> str:
    """What to do about a right that is missing."""
    return f"let User:{security.username or 'ANONYMOUS'} {what} (kafka-acls --add --allow-principal ...)"


METADATA_S: Final = 5.0
"""How long a topic may take to appear: each broker learns of a new one by itself, after whoever made it was told."""
PAUSE_S: Final = 0.2


async def check_readable(client: Any, topics: Iterable[str], security: LinkSecurity) -> None:
    """Raise `BrokerError` for a topic that an `AIOKafkaClient` cannot see: its consumer would wait and say nothing."""
    for topic in sorted(topics):
        try:
            # aiokafka would look for a whole request's time, 15 s or more, before it says that there is no such topic.
            async with asyncio.timeout(METADATA_S):
                await client._wait_on_metadata(topic)
        except TopicAuthorizationFailedError as error:
            raise BrokerError(f"topic {topic!r} is not ours to read; {grant(security, 'read it')}") from error
        except (UnknownTopicOrPartitionError, TimeoutError) as error:
            raise BrokerError(
                f"topic {topic!r} is not there, or no broker answers: run weir topics create, or correct the name"
            ) from error


async def absent_topics(consumer: Any, wanted: Collection[str]) -> list[str]:
    """Those of ``wanted`` that an `AIOKafkaConsumer` still does not see after ``METADATA_S``, sorted.

    All topics are asked for: a broker may create one that is asked for by its name.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + METADATA_S
    while (absent := sorted(set(wanted) - await consumer.topics())) and loop.time() < until:
        await asyncio.sleep(PAUSE_S)
    return absent


async def not_let_in(bootstrap: str, security: LinkSecurity, timeout_s: float, error: KafkaError) -> BrokerError:
    """The error to raise when a client could not start: what was refused, and what to check."""
    # Every other error says by itself what was refused.
    if not isinstance(error, KafkaConnectionError):
        return BrokerError(f"the brokers at {bootstrap} refuse: {error}; {grant(security, 'write the topics of Weir')}")
    reason, hint = "no answer", "see whether the brokers are up"
    for host, port, _ in collect_hosts(bootstrap, randomize=False):
        try:
            connection = await create_conn(host, port, request_timeout_ms=int(timeout_s * 1000), **security.options)
        except (OSError, TimeoutError, KafkaError) as error:
            reason, hint = _reason(error, timeout_s), _hint(error, security)
        else:
            connection.close()
    return BrokerError(f"no broker at {bootstrap} takes us: {reason}. {hint[0].upper()}{hint[1:]}")


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    return in_words(error)


def _hint(error: Exception, security: LinkSecurity) -> str:
    mechanism = security.options.get("sasl_mechanism")
    if isinstance(error, SaslAuthenticationFailed):
        return f"the broker refused user {security.username!r}: check username, password and sasl_mechanism={mechanism}"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"the listener does not offer sasl_mechanism={mechanism}; choose one that it does"
    # Before SSLError, of which it is one: another port would not help here.
    if isinstance(error, ssl.SSLCertVerificationError):
        return "set ca_file to the authority that signed the broker's certificate, and use the host name it is for"
    if isinstance(error, ssl.SSLError):
        return f"the listener does not speak TLS as we do: check the port, or security_protocol={security.protocol}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: start the broker, or correct bootstrap"
    if isinstance(error, KafkaConnectionError | IllegalSaslStateError):
        return f"the listener hangs up on security_protocol={security.protocol}: it may want TLS or SASL"
    return "check bootstrap, the broker's advertised.listeners and firewalls"


EVERY_S: Final = 10.0
_PREFIXES: Final = ("aiokafka", "mode.timers")


async def disconnect(consumer: Any) -> None:
    """Close a consumer. While brokers are away aiokafka's own ``stop`` ends half-way, by the cancelling of a fetch."""
    stopping = asyncio.ensure_future(consumer.stop())
    # Not awaited itself: that would raise the cancelling of its inside, which nobody can tell from one of our own.
    await asyncio.wait([stopping])
    if stopping.cancelled():
        # It came no further than the fetcher, so the connections are open still.
        await consumer._client.close()
    else:
        stopping.result()


def pace_connecting(client: Any) -> None:
    """Make an `AIOKafkaClient` wait for a moment after each attempt to connect that failed."""
    connect = client._get_conn

    async def paced(*args: Any, **kwargs: Any) -> Any:
        connection = await connect(*args, **kwargs)
        # How aiokafka says that it could not connect; it comes again at once.
        if connection is None:
            await asyncio.sleep(PAUSE_S)
        return connection

    client._get_conn = paced


class OncePer(logging.Filter):
    """Lets a line pass when none like it (same logger and template) did for ``every_s``, and counts the others.

    Examples
    --------
    >>> lines = OncePer(10.0)
    >>> def at(time):
    ...     record = logging.LogRecord("a", logging.ERROR, "", 0, "no node %d", (1,), None)
    ...     record.created = time
    ...     return lines.filter(record), record.getMessage()
    >>> at(0.0), at(9.0), at(12.0)
    ((True, 'no node 1'), (False, 'no node 1'), (True, 'no node 1 (and 1 more like it since)'))
    """

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._every_s = every_s
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; one that passes tells how many did not."""
        # The template, not the message: nodes and numbers in it differ each time.
        like = (record.name, str(record.msg))
        last, held_back = self._seen.get(like, (float("-inf"), 0))
        if record.created - last < self._every_s:
            self._seen[like] = (last, held_back + 1)
            return False
        if held_back:
            # Without arguments, as they are in the text: formatted again, a percent sign in it would be an error.
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it since)", ()
        self._seen[like] = (record.created, 0)
        return True


_once = OncePer(EVERY_S)


def calm_logs() -> None:
    """Let each kind of line of aiokafka's through once in ``EVERY_S`` only; may be called again."""
    # A copy: another thread may make a logger meanwhile. A filter that a logger has is not added again.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(_PREFIXES):
            logging.getLogger(name).addFilter(_once)
