"""Every metric of a worker, a trainer and a service: name, kind, meaning, labels and buckets, in one list.

The registry refuses a name that is not declared here, or is of another kind; a test holds every name in the code and
docs/METRICS.md to the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal[
    "records", "seconds", "batches", "rows", "partitions", "examples", "alerts", "times", "jobs", "requests", "bytes",
    "1",
]  # fmt: skip
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


def _define(kind: Kind, name: str, unit: Unit, meaning: str, buckets: tuple[float, ...] = ()) -> Definition:
    """A name and its labels as Prometheus writes them: ``weir_labels_total{task,outcome}``."""
    name, _, labels = name.rstrip("}").partition("{")
    return Definition(name, kind, unit, meaning, tuple(labels.split(",")) if labels else (), buckets)


def _histogram(name: str, unit: Unit, buckets: tuple[float, ...], meaning: str) -> Definition:
    return _define("histogram", name, unit, meaning, buckets)


_counter, _gauge = partial(_define, "counter"), partial(_define, "gauge")
DEFINITIONS: Final[tuple[Definition, ...]] = (
    # What comes in and goes out
    _counter("weir_batches_total{topic}", "batches",
        "Record batches completed: outputs acknowledged, state in the store."),
    _counter("weir_records_total{topic}", "records", "Records of completed batches, bad ones included."),
    _histogram("weir_batch_records{topic}", "records", _RECORDS, "Records of one batch as it was processed."),
    _counter("weir_events_total{topic}", "records", "Valid events that were scored: no repeats, not too late."),
    _counter("weir_duplicates_total{topic}", "records", "Repeats of an event id (or update id) that were dropped."),
    _counter("weir_passed_over_total{task}", "records",
        "Valid events that a task does not score: of other types, or without the key of its entity."),
    _counter("weir_inputs_total{task,input,outcome}", "records",
        "Events of a task by raw column, in one batch of eight; outcome is known, or missing: absent or of the "
        "wrong kind."),
    _counter("weir_dead_letters_total{topic,reason}", "records",
        "Records sent to the dead letters: late, ahead, oversized, unreadable, misplaced, out of range or invalid."),
    _counter("weir_misplaced_total{topic}", "records",
        "Events and labels found in a partition that does not own their key: passed on, or refused where that is "
        "set."),
    _counter("weir_predictions_total{task}", "records", "Predictions acknowledged by the brokers."),
    _counter("weir_updates_total{table}", "records", "Updates taken into rows that a side lane owns."),
    _gauge("weir_lag_records{topic,partition}", "records",
        "Records of a partition this worker owns that it has not fetched yet."),
    # Time
    _histogram("weir_end_to_end_seconds{topic}", "seconds", _LATENCY_S,
        "From a record's timestamp until its prediction was acknowledged."),
    _histogram("weir_stage_seconds{lane,stage}", "seconds", _STAGE_S,
        "Time of one stage for one batch, waiting included where the stage waits."),
    _gauge("weir_since_batch_seconds", "seconds", "Since the last completed batch; grows also when nothing comes in."),
    _gauge("weir_batches_in_flight", "batches", "Batches fetched and not completed."),
    # The feature store
    _histogram("weir_store_seconds{op}", "seconds", _STORE_S, "One round trip to the store."),
    _histogram("weir_flush_batches{topic}", "batches", _FLUSH, "Batches written to the store by one atomic write."),
    _counter("weir_store_retries_total", "times",
        "Commands tried again because the store did not answer or could not write."),
    _counter("weir_cache_lookups_total{outcome}", "rows",
        "Rows wanted by a batch; outcome is hit (in this worker) or miss (read from the store)."),
    _gauge("weir_cached_rows{topic}", "rows", "Rows that the lanes keep in memory."),
    _gauge("weir_memory_bytes{part}", "bytes",
        "Memory of the lanes by part: ids (dedupe_bytes), rows (cache_rows), label_rows: what waits for labels, "
        "alerts: open ones, and events over the line ([alerts] max_open, remember_events), "
        "silence: entities that may fall silent (max_entities)."),
    _gauge("weir_dedupe_window_seconds{topic}", "seconds",
        "For how long event ids are remembered, in the partition where that is shortest: dedupe_window, or less "
        "where dedupe_bytes does not allow it."),
    _gauge("weir_loop_stall_seconds", "seconds", "The longest that the event loop stood still in the last minute."),
    _counter("weir_new_rows_total", "rows", "Rows asked for of entities that the store does not know yet."),
    _counter("weir_unkept_rows_total", "rows", "Changes of new entities' rows not written: the store is nearly full."),
    _gauge("weir_store_used_bytes", "bytes", "Memory that Redis uses (used_memory)."),
    _gauge("weir_store_limit_bytes", "bytes", "Memory that Redis may use (maxmemory); 0 without a limit."),
    # Labels and learning
    _counter("weir_labels_total{task,outcome}", "records",
        "Labels; outcome is joined, unmatched (no prediction is waiting), repeated, corrected or lost (its "
        "prediction could not be read back)."),
    _counter("weir_unknown_task_total{topic}", "records",
        "Labels and predictions of tasks that this worker does not run; they are passed over."),
    _gauge("weir_waiting_predictions{task}", "records", "Predictions that wait for a label."),
    _gauge("weir_waiting_labels{task}", "records", "Labels that wait for a prediction."),
    _gauge("weir_label_horizon_seconds{task}", "seconds",
        "For how long predictions wait for a label: the task's keep_s, or less where memory does not allow it."),
    _gauge("weir_label_bytes{task}", "bytes", "Memory of predictions and labels that wait for each other."),
    _counter("weir_logged_rows_read_total{task}", "rows",
        "Predictions read back from Kafka because a label, or a negative, met them."),
    _counter("weir_predictions_evicted_total{task}", "records",
        "Predictions that stopped waiting before keep_s was over: max_rows of the task, or memory."),
    _counter("weir_maturity_missing_total{task}", "records",
        "Predictions without the input that tells their maturity: they wait for keep_s, as long as any."),
    _counter("weir_examples_learned_total{task}", "examples", "Examples this process learned since it started."),
    _gauge("weir_learner_version{task}", "examples",
        "Version of the model that scores: examples learned since its beginning."),
    _gauge("weir_examples_refused{task}", "examples",
        "Of those, how many the model was not shown: no recent one had values of their size."),
    _gauge("weir_prequential_metric{task,metric}", "1",
        "Rolling prequential metrics, the mean over this worker's partitions; from labels, so as late as they are, "
        "and over mature events alone where the task sets maturity."),
    _gauge("weir_mature_only{task}", "1", "1 where the task sets maturity: metrics are over mature events; else 0."),
    _counter("weir_drift_detections_total{task}", "times", "Drifts detected."),
    _counter("weir_retrain_requests_total{task,cause}", "times",
        "Requests for a new full model; cause is drift, volume, schedule or manual."),
    _counter("weir_alerts_total{task,status}", "alerts",
        "Alert records; status is that of the record: open where one opened, repeated, escalated or resolved."),
    _counter("weir_alerts_refused_total{task}", "rows", "Would have opened an alert; the budget had none left."),
    _gauge("weir_open_alerts{task}", "alerts", "Alerts open now in the partitions of this worker."),
    _histogram("weir_snapshot_seconds", "seconds", _STORE_S, "Writing one snapshot of a label lane."),
    # The full model
    _gauge("weir_full_version{task,slot}", "1", "Version of the full model; slot is champion or shadow, 0 is none."),
    _gauge("weir_full_provider{task}", "1", "What the champion runs on: 0 none, 1 CPU, 2 CUDA."),
    _gauge("weir_full_bits{task}", "1", "Precision of the champion's graph: 32 float32, 16 float16, 8 int8, 0 none."),
    _counter("weir_full_swaps_total{task}", "times", "Changes of what serves, the first included."),
    _counter("weir_full_refused_total{task}", "times", "Artefacts that could not be used; the old version went on."),
    _counter("weir_full_failed_total{task}", "times", "Calls of full models that raised; the log says why."),
    _counter("weir_full_rebuilt_total{task}", "rows", "States made again from the newest inputs, after a swap."),
    _counter("weir_full_not_finite_total{task}", "records", "Rows for which a model gave no finite number."),
    _histogram("weir_full_seconds{task}", "seconds", _STAGE_S, "One call of the full model, for one batch."),
    _histogram("weir_full_rows{task}", "records", _RECORDS, "Rows of one call in an inference worker, all partitions."),
    _histogram("weir_full_answer_seconds{task}", "seconds", _LATENCY_S,
        "From a request to an inference worker until its answer, late ones included."),
    _counter("weir_full_missed_total{task}", "batches", "Batches decided without an answer that they had waited for."),
    _gauge("weir_full_waits{task}", "partitions", "Partitions whose batches wait for inference workers' answers."),
    _counter("weir_no_readings_total{task,column}", "records",
        "Raw numbers taken as missing: out of the task's ranges, or standing for \"no reading\"."),
    _counter("weir_degraded_total{task}", "records", "Events scored without the full model of their task."),
    # The trainer
    _counter("weir_trainer_requests_total{task,answer}", "requests",
        "Requests taken in; answer is accepted, waits (for the job under way), repeat or too soon."),
    _gauge("weir_trainer_queue_jobs{task}", "jobs",
        "Trainings at work or waiting; a candidate that is judged live is not."),
    _counter("weir_trainer_jobs_total{task,outcome}", "jobs",
        "Jobs that this trainer ended; outcome is promoted, retired, rejected or failed, and rolled back on top "
        "where a promotion is taken back."),
    _histogram("weir_trainer_stage_seconds{task,stage}", "seconds", _TRAINING_S,
        "One stage of a job, failed ones too; stage is gather, train, judge, register or shadow."),
    _gauge("weir_trainer_gate{task,figure}", "1",
        "The newest candidate on the newest labels; figure is candidate or champion (the metric of each) or low "
        "(the lower end of the interval of their difference)."),
    _gauge("weir_trainer_champion_version{task}", "1", "What serves by the registry, asked twice a minute; 0 is none."),
    _gauge("weir_trainer_progress{task,part}", "1",
        "How far a part of the job at work is, 0 to 1; part is what it says."),
    _gauge("weir_trainer_held{task}", "1", "1 while this trainer holds the task's lease: it works or judges, or will."),
    # The service
    _counter("weir_http_requests_total{route,status}", "requests",
        "Requests answered; route is its pattern, or none where there is no such path."),
    _counter("weir_intake_records_total{route,outcome}", "records",
        "Records sent over HTTP; route is events, labels or decisions, outcome is accepted, repeat or refused."),
    _histogram("weir_decision_seconds{outcome}", "seconds", _LATENCY_S,
        "From a request for decisions until its answer; outcome is answered or late."),
    _gauge("weir_feed_clients", "requests", "Clients that follow the live feed now."),
    _counter("weir_feed_ended_total{why}", "requests",
        "Feeds that ended; why is left (the client hung up), resync (it read too slowly, or the log no longer has "
        "its place), drain (the process ends) or expired (it may no longer read)."),
    _counter("weir_notifications_sent_total{target}", "alerts", "Messages about alerts that a target took."),
    _counter("weir_notifications_failed_total{target}", "alerts", "Messages that no attempt within give_up delivered."),
    _gauge("weir_notifications_waiting{target}", "alerts", "Messages that wait for a target, or for their time."),
    # The process
    _gauge("weir_info{version,role,worker}", "1", "Always 1; the labels say what runs."),
    _gauge("weir_ready", "1", "1 while /ready answers 200."),
    _gauge("weir_partitions_assigned{topic}", "partitions", "Partitions this worker owns."),
    _gauge("weir_partitions_paused{reason}", "partitions",
        "Partitions of this worker that stand still while others go on; reason is rejects (most of the input is "
        "bad), deleted (records were gone before they were read), state (what is stored does not fit), fault (an "
        "error of the code) or hand (weir partitions pause)."),
    _counter("weir_rebalances_total", "times", "Rebalances of the consumer group seen by this worker."),
    _counter("weir_lane_rewinds_total{topic}", "times",
        "A lane went back to the store's position: the store lost writes, or another worker wrote."),
)  # fmt: skip
"""In the order in which docs/METRICS.md shows them."""
