"""Why the brokers do not let us in, in one sentence.

Why a connection failed is only in aiokafka's log, so one is tried once more here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
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
from weir.streams.kafka.security import LinkSecurity


def grant(security: LinkSecurity, what: str) -> str:
    """What to do about a right that is missing."""
    return f"let User:{security.username or 'ANONYMOUS'} {what} (kafka-acls --add --allow-principal ...)"


METADATA_S: Final = 5.0
"""How long a topic may take to appear: one that was made a moment ago does."""


async def check_readable(client: Any, topics: Iterable[str], security: LinkSecurity) -> None:
    """Raise `BrokerError` for a topic that an `AIOKafkaClient` cannot see: its consumer would wait and say nothing."""
    for topic in sorted(topics):
        try:
            await asyncio.wait_for(client._wait_on_metadata(topic), METADATA_S)
        except TopicAuthorizationFailedError as error:
            raise BrokerError(f"topic {topic!r} is not ours to read; {grant(security, 'read it')}") from error
        except (UnknownTopicOrPartitionError, TimeoutError) as error:
            raise BrokerError(
                f"topic {topic!r} is not there, or no broker answers: run weir topics create, or correct the name"
            ) from error


async def not_let_in(bootstrap: str, security: LinkSecurity, timeout_s: float, error: KafkaError) -> BrokerError:
    """The error to raise when a client could not start: what was refused, and what to check."""
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
    if isinstance(error, ssl.SSLCertVerificationError):
        return "set ca_file to the authority that signed the broker's certificate, and use the host name it is for"
    if isinstance(error, ssl.SSLError):
        return f"the listener does not speak TLS as we do: check the port, or security_protocol={security.protocol}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: start the broker, or correct bootstrap"
    if isinstance(error, KafkaConnectionError | IllegalSaslStateError):
        return f"the listener hangs up on security_protocol={security.protocol}: it may want TLS or SASL"
    return "check bootstrap, the broker's advertised.listeners and firewalls"
