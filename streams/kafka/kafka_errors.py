"""Errors of the transport, by the action each one causes.

ShellError (weir.streams.errors)
├── DeliveryError      the broker did not take records: stop the worker; it repeats the batch after its restart
├── RecordsDeleted     decide: go on behind the gap (`when_deleted`), or restore the records
├── RebalanceHookError start_offsets or on_revoked took too long: see what it waits for; the worker starts again
└── RecordTooLarge     dead-letter the record, or raise the limit; nothing of the call was sent
"""

from __future__ import annotations

from aiokafka.errors import KafkaConnectionError, KafkaError

from weir.streams.errors import ShellError, in_words


class DeliveryError(ShellError):
    """Records were not acknowledged, and the producer cannot tell which: the batch must not count as complete."""


class RecordTooLarge(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """A record is larger than a batch may be; the producer is unharmed and nothing of the call was sent.

    ``index`` is the record's place in the call.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class RecordsDeleted(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """Kafka deleted records (retention) before this group had processed them."""


class RebalanceHookError(ShellError):
    """What the app does when partitions come or go was not done in time."""


def said(error: KafkaError) -> str:
    """What an error of Kafka's says to a person, and what to do.

    >>> said(KafkaConnectionError("Unable to bootstrap from [('10.0.0.1', 9092, <AddressFamily.AF_INET: 2>)]"))
    'no broker answers there: start it, or correct bootstrap and security in [kafka]'
    """
    if isinstance(error, KafkaConnectionError):
        return "no broker answers there: start it, or correct bootstrap and security in [kafka]"
    return f"{in_words(error)}; see [kafka] in the settings"
