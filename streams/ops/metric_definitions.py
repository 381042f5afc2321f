"""Every metric of a worker, a trainer and a service: name, kind, meaning, labels and buckets, in one list.

The registry refuses a name that is not declared here, or is of another kind; a test holds every name in the code and
docs/METRICS.md to the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal[
    "records",
    "seconds",
    "batches",
    "rows",
    "partitions",
    "examples",
    "alerts",
    "times",
    "jobs",
    "requests",
    "bytes",
    "1",
]
Stage = Literal[
    "decode", "intake", "prefetch", "features_score", "encode", "send", "acknowledge", "flush", "apply", "join", "label"
]
"""What a lane does with a batch."""

_STAGE_S: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_LATENCY_S: Final = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.018, 0.025, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
                     10.0)  # fmt: skip
_STORE_S: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
_TRAINING_S: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 7200.0, 28800.0)
_FLUSH: Final = (1.0, 2.0, 3.0, 5.0, 8.0, 16.0)
_RECORDS: Final = (1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric."""

    name: str
    kind: Kind
    unit: Unit
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in its unit; the last, infinity, is understood."""


def _counter(name: str, unit: Unit, meaning: str, *labels: str) -> Definition:
    return Definition(name, "counter", unit, meaning, labels)


def _gauge(name: str, unit: Unit, meaning: str, *labels: str) -> Definition:
    return Definition(name, "gauge", unit, meaning, labels)


def _histogram(name: str, unit: Unit, buckets: tuple[float, ...], meaning: str, *labels: str) -> Definition:
    return Definition(name, "histogram", unit, meaning, labels, buckets)


DEFINITIONS: Final[tuple[Definition, ...]] = (
    # What comes in and goes out
    _counter(
        "weir_batches_total", "batches", "Record batches completed: outputs acknowledged, state in the store.", "topic"
    ),
    _counter("weir_records_total", "records", "Records of completed batches, bad ones included.", "topic"),
    _histogram("weir_batch_records", "records", _RECORDS, "Records of one batch as it was processed.", "topic"),
    _counter("weir_events_total", "records", "Valid events that were scored: no repeats, not too late.", "topic"),
    _counter("weir_duplicates_total", "records", "Repeats of an event id (or update id) that were dropped.", "topic"),
    _counter(
        "weir_passed_over_total",
        "records",
        "Valid events that a task does not score: of other types, or without the key of its entity.",
        "task",
    ),
    _counter(
        "weir_inputs_total",
        "records",
        "Events of a task by raw column, in one batch of eight; outcome is known, or missing: absent or of the "
        "wrong kind.",
        "task",
        "input",
        "outcome",
    ),
    _counter(
        "weir_dead_letters_total",
        "records",
        "Records sent to the dead letters: late, ahead, oversized, unreadable, misplaced, out of range or invalid.",
        "topic",
        "reason",
    ),
    _counter(
        "weir_misplaced_total",
        "records",
        "Events and labels found in a partition that does not own their key: passed on, or refused where that is set.",
        "topic",
    ),
    _counter("weir_predictions_total", "records", "Predictions acknowledged by the brokers.", "task"),
    _counter("weir_updates_total", "records", "Updates taken into rows that a side lane owns.", "table"),
    _gauge(
        "weir_lag_records",
        "records",
        "Records of a partition this worker owns that it has not fetched yet.",
        "topic",
        "partition",
    ),
    # Time
    _histogram(
        "weir_end_to_end_seconds",
        "seconds",
        _LATENCY_S,
        "From a record's timestamp until its prediction was acknowledged.",
        "topic",
    ),
    _histogram(
        "weir_stage_seconds",
        "seconds",
        _STAGE_S,
        "Time of one stage for one batch, waiting included where the stage waits.",
        "lane",
        "stage",
    ),
    _gauge("weir_since_batch_seconds", "seconds", "Since the last completed batch; grows also when nothing comes in."),
    _gauge("weir_batches_in_flight", "batches", "Batches fetched and not completed."),
    # The feature store
    _histogram("weir_store_seconds", "seconds", _STORE_S, "One round trip to the store.", "op"),
    _histogram("weir_flush_batches", "batches", _FLUSH, "Batches written to the store by one atomic write.", "topic"),
    _counter(
        "weir_store_retries_total", "times", "Commands tried again because the store did not answer or could not write."
    ),
    _counter(
        "weir_cache_lookups_total",
        "rows",
        "Rows wanted by a batch; outcome is hit (in this worker) or miss (read from the store).",
        "outcome",
    ),
    _gauge("weir_cached_rows", "rows", "Rows that the lanes keep in memory.", "topic"),
    _gauge(
        "weir_memory_bytes",
        "bytes",
        "Memory of the lanes by part: ids (dedupe_bytes), rows (cache_rows), label_rows: what waits for labels.",
        "part",
    ),
    _gauge(
        "weir_dedupe_window_seconds",
        "seconds",
        "For how long event ids are remembered, in the partition where that is shortest: dedupe_window, or less where "
        "dedupe_bytes does not allow it.",
        "topic",
    ),
    _gauge("weir_loop_stall_seconds", "seconds", "The longest that the event loop stood still in the last minute."),
    _counter("weir_new_rows_total", "rows", "Rows asked for of entities that the store does not know yet."),
    _counter("weir_unkept_rows_total", "rows", "Changes of new entities' rows not written: the store is nearly full."),
    _gauge("weir_store_used_bytes", "bytes", "Memory that Redis uses (used_memory)."),
    _gauge("weir_store_limit_bytes", "bytes", "Memory that Redis may use (maxmemory); 0 without a limit."),
    # Labels and learning
    _counter(
        "weir_labels_total",
        "records",
        "Labels; outcome is joined, unmatched (no prediction is waiting), repeated, corrected or lost (its prediction "
        "could not be read back).",
        "task",
        "outcome",
    ),
    _counter(
        "weir_unknown_task_total",
        "records",
        "Labels and predictions of tasks that this worker does not run; they are passed over.",
        "topic",
    ),
    _gauge("weir_waiting_predictions", "records", "Predictions that wait for a label.", "task"),
    _gauge("weir_waiting_labels", "records", "Labels that wait for a prediction.", "task"),
    _gauge(
        "weir_label_horizon_seconds",
        "seconds",
        "For how long predictions wait for a label: the task's keep_s, or less where memory does not allow it.",
        "task",
    ),
    _gauge("weir_label_bytes", "bytes", "Memory of predictions and labels that wait for each other.", "task"),
    _counter(
        "weir_logged_rows_read_total",
        "rows",
        "Predictions read back from Kafka because a label, or a negative, met them.",
        "task",
    ),
    _counter(
        "weir_predictions_evicted_total",
        "records",
        "Predictions that stopped waiting before keep_s was over: max_rows of the task, or memory.",
        "task",
    ),
    _counter("weir_examples_learned_total", "examples", "Examples this process learned since it started.", "task"),
    _gauge(
        "weir_learner_version",
        "examples",
        "Version of the model that scores: examples learned since its beginning.",
        "task",
    ),
    _gauge(
        "weir_examples_refused",
        "examples",
        "Of those, how many the model was not shown: no recent one had values of their size.",
        "task",
    ),
    _gauge(
        "weir_prequential_metric",
        "1",
        "Rolling prequential metrics, the mean over this worker's partitions; from labels, so as late as they are.",
        "task",
        "metric",
    ),
    _counter("weir_drift_detections_total", "times", "Drifts detected.", "task"),
    _counter(
        "weir_retrain_requests_total",
        "times",
        "Requests for a new full model; cause is drift, volume, schedule or manual.",
        "task",
        "cause",
    ),
    _counter(
        "weir_alerts_total",
        "alerts",
        "Alert records; status is that of the record, such as open or resolved.",
        "task",
        "status",
    ),
    _gauge("weir_open_alerts", "alerts", "Alerts open now in the partitions of this worker.", "task"),
    _histogram("weir_snapshot_seconds", "seconds", _STORE_S, "Writing one snapshot of a label lane."),
    # The full model
    _gauge(
        "weir_full_version", "1", "Version of the full model; slot is champion or shadow, 0 is none.", "task", "slot"
    ),
    _gauge("weir_full_provider", "1", "What the champion runs on: 0 none, 1 CPU, 2 CUDA.", "task"),
    _gauge("weir_full_bits", "1", "Precision of the champion's graph: 32 float32, 16 float16, 8 int8, 0 none.", "task"),
    _counter("weir_full_swaps_total", "times", "Changes of what serves, the first included.", "task"),
    _counter("weir_full_refused_total", "times", "Artefacts that could not be used; the old version went on.", "task"),
    _counter("weir_full_failed_total", "times", "Calls of full models that raised; the log says why.", "task"),
    _counter("weir_full_rebuilt_total", "rows", "States made again from the newest inputs, after a swap.", "task"),
    _counter("weir_full_not_finite_total", "records", "Rows for which a model gave no finite number.", "task"),
    _histogram("weir_full_seconds", "seconds", _STAGE_S, "One call of the full model, for one batch.", "task"),
    _histogram(
        "weir_full_rows", "records", _RECORDS, "Rows of one call in an inference worker, all partitions.", "task"
    ),
    _histogram(
        "weir_full_answer_seconds",
        "seconds",
        _LATENCY_S,
        "From a request to an inference worker until its answer, late ones included.",
        "task",
    ),
    _counter(
        "weir_full_missed_total", "batches", "Batches decided without an answer that they had waited for.", "task"
    ),
    _gauge("weir_full_waits", "partitions", "Partitions whose batches wait for inference workers' answers.", "task"),
    _counter(
        "weir_no_readings_total",
        "records",
        'Raw numbers taken as missing: out of the task\'s ranges, or standing for "no reading".',
        "task",
        "column",
    ),
    _counter("weir_degraded_total", "records", "Events scored without the full model of their task.", "task"),
    # The trainer
    _counter(
        "weir_trainer_requests_total",
        "requests",
        "Requests taken in; answer is accepted, waits (for the job under way), repeat or too soon.",
        "task",
        "answer",
    ),
    _gauge(
        "weir_trainer_queue_jobs",
        "jobs",
        "Trainings at work or waiting; a candidate that is judged live is not.",
        "task",
    ),
    _counter(
        "weir_trainer_jobs_total",
        "jobs",
        "Jobs that this trainer ended; outcome is promoted, retired, rejected or failed, and rolled back on top where "
        "a promotion is taken back.",
        "task",
        "outcome",
    ),
    _histogram(
        "weir_trainer_stage_seconds",
        "seconds",
        _TRAINING_S,
        "One stage of a job, failed ones too; stage is gather, train, judge, register or shadow.",
        "task",
        "stage",
    ),
    _gauge(
        "weir_trainer_gate",
        "1",
        "The newest candidate on the newest labels; figure is candidate or champion (the metric of each) or low (the "
        "lower end of the interval of their difference).",
        "task",
        "figure",
    ),
    _gauge(
        "weir_trainer_champion_version", "1", "What serves by the registry, asked twice a minute; 0 is none.", "task"
    ),
    _gauge(
        "weir_trainer_held", "1", "1 while this trainer holds the task's lease: it works or judges, or will.", "task"
    ),
    # The service
    _counter(
        "weir_http_requests_total",
        "requests",
        "Requests answered; route is its pattern, or none where there is no such path.",
        "route",
        "status",
    ),
    _counter(
        "weir_intake_records_total",
        "records",
        "Records sent over HTTP; route is events, labels or decisions, outcome is accepted, repeat or refused.",
        "route",
        "outcome",
    ),
    _histogram(
        "weir_decision_seconds",
        "seconds",
        _LATENCY_S,
        "From a request for decisions until its answer; outcome is answered or late.",
        "outcome",
    ),
    _gauge("weir_feed_clients", "requests", "Clients that follow the live feed now."),
    _counter(
        "weir_feed_ended_total",
        "requests",
        "Feeds that ended; why is left (the client hung up), resync (it read too slowly, or the log no longer has its "
        "place), drain (the process ends) or expired (it may no longer read).",
        "why",
    ),
    # The process
    _gauge("weir_info", "1", "Always 1; the labels say what runs.", "version", "role", "worker"),
    _gauge("weir_ready", "1", "1 while /ready answers 200."),
    _gauge("weir_partitions_assigned", "partitions", "Partitions this worker owns.", "topic"),
    _gauge(
        "weir_partitions_paused",
        "partitions",
        "Partitions of this worker that stand still while others go on; reason is rejects (most of the input is bad), "
        "deleted (records were gone before they were read), state (what is stored does not fit), fault (an error of "
        "the code) or hand (weir partitions pause).",
        "reason",
    ),
    _counter("weir_rebalances_total", "times", "Rebalances of the consumer group seen by this worker."),
    _counter(
        "weir_lane_rewinds_total",
        "times",
        "A lane went back to the store's position: the store lost writes, or another worker wrote.",
        "topic",
    ),
)
"""In the order in which docs/METRICS.md shows them."""
