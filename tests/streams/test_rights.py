"""The table of rights: the page, the commands and the files of the deployment say the same."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from docs.pages.security import DANGERS, page
from weir.streams.checks.rights import PRINCIPALS, READ_COMMANDS, grants, groups_of, redis_user
from weir.streams.cli import app as tree
from weir.streams.config import topics
from weir.streams.config.settings import Settings, TopicSettings
from weir.streams.redis.client import COMMANDS, acl_line

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {p.name: p for p in PRINCIPALS}
RUNNER = CliRunner()


def test_the_page_is_that_of_the_table() -> None:
    made = (ROOT / "docs/SECURITY.md").read_text(encoding="utf-8")
    assert made == page(), "run: python -m docs.pages.security > docs/SECURITY.md"


def test_for_every_topic_that_somebody_may_write_it_says_what_that_could_do() -> None:
    assert {*DANGERS, topics.DEVICE_EVENTS} == {own for p in PRINCIPALS for own in p.writes} == set(topics.ALL)
    assert {own for p in PRINCIPALS for own in (*p.reads, *p.writes)} <= set(topics.ALL)


def test_no_topic_is_written_without_a_reader_who_runs_and_who_runs_has_a_group() -> None:
    running = [p for p in PRINCIPALS if p.group]
    assert {p.group for p in running} == set(groups_of(Settings()))
    assert groups_of(Settings())["all"] == Settings().worker.group_id("all")
    assert set(BY_NAME["all"].reads) == {*BY_NAME["score"].reads, *BY_NAME["label"].reads}
    assert set(BY_NAME["all"].writes) == {*BY_NAME["score"].writes, *BY_NAME["label"].writes}


def test_only_who_runs_or_manages_may_write_what_weir_writes() -> None:
    inputs = {*topics.INPUTS}
    for p in PRINCIPALS:
        if not p.group and not p.manages and p.name != "serve":  # the service runs, and reads without a group
            assert set(p.writes) <= inputs, p.name
    assert not BY_NAME["reader"].writes


def weir(*arguments: str) -> list[str]:
    done = RUNNER.invoke(tree.app, ["acl", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_the_commands_of_kafka_say_all_of_the_table_in_the_names_of_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "weir.toml"
    config.write_text('[topics]\nprefix = "prod."\n[worker]\ngroup = "live"\n[kafka]\nbootstrap = "k:1"\n')
    lines = weir("kafka", "--config", str(config), "--user", "all=User:CN=a b")
    settings = Settings(topics=TopicSettings(prefix="prod."))
    for p in PRINCIPALS:
        name = "User:CN=a b" if p.name == "all" else f"User:weir-{p.name}"
        mine = [words for words in map(shlex.split, lines) if words[words.index("--allow-principal") + 1] == name]
        assert len(mine) == len(list(grants(settings, p)))
        for operation, wanted in (("Read", p.reads), ("Write", p.writes)):
            found = [
                w for words in mine if operation in words and "--group" not in words for w in _after("--topic", words)
            ]
            assert found == [f"prod.{own}" for own in wanted]
    assert [_after("--group", shlex.split(line)) for line in lines if "live-score" in line] == [["live-score"]]
    assert all(line.startswith("kafka-acls.sh --bootstrap-server k:1 ") for line in lines)


def _after(option: str, words: list[str]) -> list[str]:
    return [value for flag, value in pairwise(words) if flag == option]


def test_the_commands_of_redis_are_what_a_worker_says_it_needs(tmp_path: Path) -> None:
    (line,) = weir("redis", "--role", "all", "--user", "all=weir")
    assert line.removeprefix("ACL SETUSER ") == redis_user(BY_NAME["all"], "weir", "weir")
    assert set(acl_line().split()[1:]) <= set(line.split())
    (reader,) = weir("redis", "--role", "reader")
    assert "%R~weir:*" in reader.split()
    assert not {"+set", "+eval", "+evalsha", "+del", "+unlink"} & set(reader.split())


_CALLS = re.compile(r"""redis\.p?call\('([A-Z]+)'|\bexecute\(\s*"([A-Z]+)"|\bcommand\("([A-Z]+)\"""")


def test_every_command_that_is_sent_to_redis_is_among_the_rights() -> None:
    sent: dict[str, str] = {}
    for path in (ROOT / "streams").rglob("*.py"):
        for groups in _CALLS.findall(path.read_text(encoding="utf-8")):
            sent["".join(groups).lower()] = path.name
    assert {"get", "set", "hset", "zadd", "scan"} <= sent.keys()
    granted = {name.partition("|")[0] for name in COMMANDS}
    assert {name: path for name, path in sent.items() if name not in granted} == {}
    assert set(READ_COMMANDS) <= set(COMMANDS)


@pytest.mark.parametrize("wrong", [["--role", "everybody"], ["--user", "all"], ["--user", "nobody=x"]])
def test_a_role_that_is_none_is_an_error(wrong: list[str]) -> None:
    assert RUNNER.invoke(tree.app, ["acl", "redis", *wrong]).exit_code != 0


def test_what_decoding_bytes_of_others_raises_is_named_in_one_place() -> None:
    """``msgspec.DecodeError`` alone lets a text that is no UTF-8, or nested too deeply, end whoever reads it."""
    narrow = re.compile(r"except [^:\n]*msgspec\.(DecodeError|MsgspecError)")
    found = [
        p.name
        for folder in ("online", "streams")
        for p in (ROOT / folder).rglob("*.py")
        if narrow.search(p.read_text())
    ]
    assert found == []
