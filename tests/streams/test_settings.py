from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from weir.streams.config import topics
from weir.streams.config.settings import (
    KafkaSettings,
    RedisSettings,
    SecretUrl,
    Settings,
    TopicSettings,
    WorkerSettings,
    load_settings,
)
from weir.streams.errors import UsageError

SASL = {"security_protocol": "SASL_SSL", "username": "weir", "password": "hush-hush"}


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "weir.toml"
    path.write_text(text)
    return load_settings(path, environ)


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text, **environ)
    return str(caught.value)


def test_without_a_file_everything_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.kafka.bootstrap == ("localhost:9092",)
    assert settings.redis.client_options() == {"url": "redis://localhost:6379/0"}


def test_a_file_here_is_read_one_that_is_named_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weir.toml").write_text('[kafka]\nbootstrap = "here:1"')
    (tmp_path / "other.toml").write_text('[kafka]\nbootstrap = ["a:1", "b:2"]')
    assert load_settings(environ={}).kafka.bootstrap == ("here:1",)
    assert load_settings(environ={"WEIR_CONFIG": "other.toml"}).kafka.bootstrap == ("a:1", "b:2")
    assert load_settings(Path("weir.toml"), {"WEIR_CONFIG": "other.toml"}).kafka.bootstrap == ("here:1",)
    for path, environ in ((Path("none.toml"), {}), (None, {"WEIR_CONFIG": "none.toml"})):
        with pytest.raises(UsageError, match=r"no such settings file: none\.toml"):
            load_settings(path, environ)


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    text = '[kafka]\nbootstrap = "file:1"\ntimeout_s = 3\n[topics]\npartitions = 4'
    settings = load(tmp_path, text, WEIR_KAFKA__BOOTSTRAP="one:1, two:2", WEIR_TOPICS__PARTITIONS="12")
    assert settings.kafka.bootstrap == ("one:1", "two:2")
    assert (settings.kafka.timeout_s, settings.topics.partitions) == (3.0, 12)
    path, environ = tmp_path / "weir.toml", {"WEIR_KAFKA__BOOTSTRAP": "one:1"}
    assert load_settings(path, environ, bootstrap="line:1").kafka.bootstrap == ("line:1",)


def test_a_variable_reaches_a_topic_whose_name_has_a_dash(tmp_path: Path) -> None:
    settings = load(tmp_path, "", WEIR_TOPICS__OVERRIDE__USER_EVENTS__RETENTION="forever")
    assert settings.topics.override[topics.USER_EVENTS].retention == "forever"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[kafka]\nbootstrp = "a:1"', ["kafka: unknown key 'bootstrp'", "did you mean 'bootstrap'"]),
        ('[kafak]\nbootstrap = "a:1"', ["'kafak'", "did you mean 'kafka'"]),
        (
            "[topics.override.alerts]\npartition = 3",
            ["topics.override.alerts: unknown key 'partition'", "'partitions'"],
        ),
        ("[topics.override.alert]\npartitions = 3", ["'alert'", "did you mean 'alerts'"]),
        ("[kafka]\nzzz = 1", ["kafka: unknown key 'zzz'", "there are: ca_file", "bootstrap"]),
        ("[worker]\nwatchdog = 3", ["worker: unknown key 'watchdog'", "did you mean 'watchdog_s'"]),
        ('[worker.intake]\nlateness = "1d"', ["worker.intake: unknown key 'lateness'", "'allowed_lateness'"]),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WEIR_KAFKA_BOOTSTRAP", "WEIR_KAFKA__BOOTSTRAP"),
        ("WEIR_KAFKA__BOOTSTRP", "WEIR_KAFKA__BOOTSTRAP"),
        ("WEIR_KAFAK__BOOTSTRAP", "WEIR_KAFKA"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(tmp_path: Path, name: str, meant: str) -> None:
    message = refusal(tmp_path, "", **{name: "a:1"})
    assert name in message
    assert f"did you mean {meant}" in message


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "", WEIR_SHARED="/x", OTHER="y", WEIR_TESTS_SEED="1") == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[kafka]\nbootstrap = "kafka"', ["'kafka'", "HOST:PORT"]),
        ('[kafka]\nbootstrap = "kafka:0"', ["HOST:PORT"]),
        ('[kafka]\nbootstrap = "kafka:70000"', ["HOST:PORT"]),
        ("[kafka]\nbootstrap = []", ["names no broker"]),
        ('[kafka]\nsecurity_protocol = "SASL"', ["'SASL_SSL'", "got 'SASL'"]),
        ('[kafka]\nsecurity_protocol = "SASL_SSL"', ["needs username and password"]),
        ('[kafka]\nusername = "u"', ["not sent with security_protocol = PLAINTEXT"]),
        ('[kafka]\nca_file = "ca.pem"', ["not used with security_protocol = PLAINTEXT"]),
        ('[kafka]\nsecurity_protocol = "SSL"\ncert_file = "c.pem"', ["cert_file and key_file belong together"]),
        ("[kafka]\ntimeout_s = 0", ["timeout_s", "more than 0"]),
        ("[topics]\npartitions = 0", ["topics.partitions", "got 0"]),
        ('[topics.override.alerts]\nretention = "7 parsecs"', ["retention", "'7 parsecs' is not a duration"]),
        ('[redis]\nurl = "http://h"', ["give redis://HOST:PORT/DB"]),
        ('[redis]\nusername = "u"', ["needs a password"]),
        ('[redis]\nca_file = "ca.pem"', ["write rediss://"]),
        ('[redis]\nprefix = "a:b"', ["redis.prefix", "got 'a:b'"]),
        ("[redis]\ntimeout_s = 0", ["redis.timeout_s", "got 0"]),
        ('[topics.names]\nalerts = "a b"', ["alerts would be called 'a b'", "1 to 249"]),
        ('[topics.names]\nalert = "x"', ["names 'alert'", "did you mean 'alerts'"]),
        ('[topics.names]\nalerts = "labels"', ["labels and alerts would both be called 'labels'"]),
        ('[topics]\nprefix = "a/"', ["topics.prefix", "got 'a/'"]),
        ('[worker]\nrole = "both"', ["worker.role", "'score', 'label' or 'all'", "got 'both'"]),
        ("[worker]\nweb_port = 70000", ["worker.web_port", "65535", "got 70000"]),
        ("[worker]\ndrain_s = 5\nwatchdog_s = 3", ["watchdog_s = 3", "drain_s = 5"]),
        ("[redis]\ntimeout_s = 30\n[worker]\nwatchdog_s = 20", ["watchdog_s = 20", "must exceed 30"]),
        ('[worker]\nstore_patience_s = "long"', ["worker.store_patience_s", "got 'long'"]),
        ('[worker]\ninstance_id = "a b"', ["worker.instance_id", "got 'a b'"]),
        ("[worker]\nmax_batch = 0", ["worker.max_batch", "got 0"]),
        ('[worker.intake]\nmax_ahead = "soon"', ["worker.intake.max_ahead", "'soon' is not a duration"]),
        ("[worker.reject]\nshare = 1.5", ["worker.reject.share", "got 1.5"]),
        ("kafka = 3", ["kafka"]),
        ("[kafka", ["not TOML"]),
    ],
)
def test_a_wrong_value_is_named_with_its_limit(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    assert all(word in message for word in words), message
    assert str(tmp_path / "weir.toml") in message


def test_a_value_where_a_table_belongs_is_no_crash(tmp_path: Path) -> None:
    assert "'kafka' is a value" in refusal(tmp_path, "kafka = 3", WEIR_KAFKA__BOOTSTRAP="a:1")
    assert "WEIR_KAFKA__BOOTSTRAP__X" in refusal(tmp_path, '[kafka]\nbootstrap="a:1"', WEIR_KAFKA__BOOTSTRAP__X="a:1")


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ('[kafka]\nusername = "u"\npassword = "hush-hush"', {}),
        ("[kafka]\npassword = 77777777", {}),
        ("", {"WEIR_KAFKA__PASSWORD": "hush-hush"}),
        ('[redis]\nurl = "redis://u:hush-hush@h:1"\npassword = "hush-hush"', {}),
        ('[redis]\nurl = "ftp://u:hush-hush@h:1/0"', {}),
        ('[redis]\nurl = "redis://u:hush-hush@h:1"\nca_file = "x"', {}),
        ('[kafka]\nbootstrap = "u:hush-hush@kafka:9092"', {}),
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    message = refusal(tmp_path, text, **environ)
    assert "hush" not in message
    assert "77777777" not in message


def test_settings_never_show_secrets(tmp_path: Path) -> None:
    text = (
        '[kafka]\nsecurity_protocol = "SASL_SSL"\nusername = "weir"\npassword = "hush-1"\n'
        '[redis]\nurl = "rediss://cache:hush-2@redis:6379/0?password=hush-3"'
    )
    settings = load(tmp_path, text)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "hush" not in shown
    assert "rediss://cache:***@redis:6379/0" in repr(settings)
    assert settings.kafka.password == SecretStr("hush-1")


@given(
    st.text(st.characters(exclude_characters="@", codec="utf-8"), min_size=1, max_size=20).map(lambda t: f"{t}~hush")
)
def test_no_password_in_a_url_is_shown_whatever_is_in_it(password: str) -> None:
    shown = str(SecretUrl(f"redis://user:{password}@host:6379/0"))
    assert "hush" not in shown
    assert shown == "redis://user:***@host:6379/0"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings().kafka, "client_id", "x")  # noqa: B010 - mypy would see the assignment


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_options_are_those_of_both_clients(mechanism: Any) -> None:
    kafka = KafkaSettings.model_validate({**SASL, "sasl_mechanism": mechanism, "client_id": "w"})
    options = kafka.client_options("tail")
    context = options.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert options == {
        "bootstrap_servers": ["localhost:9092"],
        "client_id": "w-tail",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "weir",
        "sasl_plain_password": "hush-hush",
    }


def test_plaintext_options_hold_no_security() -> None:
    assert set(KafkaSettings().client_options("x")) == {"bootstrap_servers", "client_id", "security_protocol"}


def test_certificates_are_read_when_a_client_is_made(tmp_path: Path) -> None:
    kafka = KafkaSettings(security_protocol="SSL", ca_file=tmp_path / "ca.pem")
    with pytest.raises(UsageError, match=r"ca_file = .*ca\.pem.*no such file"):
        kafka.client_options("x")
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(UsageError, match="not usable for TLS"):
        kafka.client_options("x")


def test_redis_options_carry_the_acl_user_and_tls(tmp_path: Path) -> None:
    plain = RedisSettings(username="weir", password=SecretStr("hush"))
    assert plain.client_options() == {"url": "redis://localhost:6379/0", "username": "weir", "password": "hush"}
    assert RedisSettings(url=SecretUrl("unix:///run/redis.sock")).tls is False
    (tmp_path / "ca.pem").write_text("no certificate")
    secure = RedisSettings(url=SecretUrl("rediss://h:1/0"), ca_file=tmp_path / "ca.pem")
    with pytest.raises(UsageError, match="not usable for TLS"):
        secure.client_options()
    assert RedisSettings(url=SecretUrl("rediss://h:1/0")).client_options() == {"url": "rediss://h:1/0"}


def test_a_topic_has_its_own_name_else_the_prefix_and_weirs_name(tmp_path: Path) -> None:
    text = '[topics]\nprefix = "prod."\n[topics.names]\nuser-events = "shop.events.v1"'
    names = load(tmp_path, text, WEIR_TOPICS__NAMES__DEAD_LETTERS="refused").topics
    assert names.name(topics.USER_EVENTS) == "shop.events.v1"
    assert names.name(topics.DEAD_LETTERS) == "refused"
    assert names.name(topics.ALERTS) == "prod.alerts"
    assert all(names.own(names.name(own)) == own for own in topics.ALL)
    assert names.own("user-events") is None, "on this cluster that is somebody else's topic"
    assert names.resolve("user-events") == "shop.events.v1"


def test_names_that_swap_two_topics_are_two_topics() -> None:
    names = TopicSettings(names={topics.LABELS: topics.ALERTS, topics.ALERTS: topics.LABELS})
    assert (names.own(topics.ALERTS), names.name(topics.ALERTS)) == (topics.LABELS, topics.LABELS)


def test_a_worker_is_set_by_file_environment_and_command_line(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text('[worker]\nrole = "label"\ntasks = ["a.toml", "b"]\nweb_port = "auto"\n[worker.reject]\nwindow = 7')
    environ = {"WEIR_WORKER__WEB_PORT": "9100", "WEIR_WORKER__GROUP": "shop", "WEIR_WORKER__REJECT__SHARE": "0.1"}
    worker = load_settings(path, environ, given={"worker.role": "score", "worker.group": None}).worker
    assert (worker.role, worker.group_id(), worker.group_id("label")) == ("score", "shop-score", "shop-label")
    assert (worker.web_port, worker.tasks) == (9100, (Path("a.toml"), Path("b")))
    assert (worker.reject.share, worker.reject.window) == (0.1, 7)
    listed = load_settings(path, {"WEIR_WORKER__TASKS": "c.toml, d.toml"})
    assert listed.worker.tasks == (Path("c.toml"), Path("d.toml"))
    assert load_settings(path, {}).worker.web_port == "auto"


def test_a_wrong_option_of_the_command_line_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"worker\.role: .*got 'both'"):
        load_settings(environ={}, given={"worker.role": "both"})


def test_an_instance_is_named_by_the_machine_only_when_asked() -> None:
    assert WorkerSettings().instance() is None
    assert WorkerSettings(instance_id="auto").instance() == socket.gethostname()
    assert WorkerSettings(instance_id="w-1").name() == "w-1"
    assert WorkerSettings().name() != WorkerSettings(instance_id="auto").name(), "processes of one machine differ"


def test_what_kubernetes_tells_of_services_is_no_mistake(tmp_path: Path) -> None:
    told = {
        "WEIR_REDIS_SERVICE_HOST": "10.0.0.1", "WEIR_REDIS_SERVICE_PORT": "6379",
        "WEIR_REDIS_SERVICE_PORT_REDIS": "6379",
        "WEIR_REDIS_PORT": "tcp://10.0.0.1:6379", "WEIR_SERVE_PORT_8080_TCP": "tcp://10.0.0.2:8080",
        "WEIR_SERVE_PORT_8080_TCP_PROTO": "tcp", "WEIR_WORKER_METRICS_PORT_8090_TCP_ADDR": "10.0.0.3",
    }  # fmt: skip
    assert load(tmp_path, "", **told) == Settings()
    for name, value in (("WEIR_REDIS_PORT", "6379"), ("WEIR_TRAINER_WEB_PORT", "0"), ("WEIR_SERVE_HOST", "0.0.0.0")):
        assert "with two underscores between levels" in refusal(tmp_path, "", **{name: value})


@pytest.mark.parametrize("name", ["password", "sslpassword", "passwd", "ssl_key_password", "Password"])
def test_no_kind_of_password_in_a_url_is_shown(name: str) -> None:
    url = SecretUrl(f"postgresql+psycopg://weir:hush@db/weir?sslmode=require&{name}=hush&application_name=weir")
    shown = f"postgresql+psycopg://weir:***@db/weir?sslmode=require&{name}=***&application_name=weir"
    assert (str(url), "hush" in repr(url)) == (shown, False)
