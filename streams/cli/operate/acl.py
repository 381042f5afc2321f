"""``weir acl``: the rights that each kind of user needs, as commands for Kafka and Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from weir.streams.checks.rights import PRINCIPALS, Principal, kafka_commands, redis_commands
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of
from weir.streams.errors import UsageError

_HELP = "Rights: what each kind of user needs, as commands.\n\nFor example: weir acl kafka | sh"
acl_app = typer.Typer(name="acl", help=_HELP, no_args_is_help=True)

RoleOption = Annotated[
    list[str] | None, typer.Option("--role", help=f"{', '.join(p.name for p in PRINCIPALS)}; else all of them.")
]
UserOption = Annotated[
    list[str] | None, typer.Option("--user", metavar="ROLE=NAME", help="The name of a role's user, else weir-ROLE.")
]


@acl_app.command("kafka")
def kafka_command(
    role: RoleOption = None, user: UserOption = None, config: ConfigOption = None, bootstrap: BootstrapOption = None
) -> None:
    """Print kafka-acls.sh commands that give each role what it needs, and nothing else.

    Topics and groups are called as the settings say. The commands read the
    login of an administrator from admin.properties. docs/SECURITY.md says
    what a holder of each right could do.

    For example:

        weir acl kafka

        weir acl kafka --role all --user all=User:CN=weir-1 | sh
    """
    settings, chosen = settings_of(config, bootstrap), _chosen(role)
    names = {name: value if ":" in value else f"User:{value}" for name, value in _users(user).items()}
    for line in kafka_commands(settings, chosen, names):
        print(line)


@acl_app.command("redis")
def redis_command(role: RoleOption = None, user: UserOption = None, config: ConfigOption = None) -> None:
    """Print ACL SETUSER commands that give each role what it needs, and nothing else.

    Put a password for <password>, or #SHA256 for its hash. The same words
    behind `user` are a line of an ACL file.

    For example:

        weir acl redis --role all --user all=weir
    """
    for line in redis_commands(settings_of(config, None), _chosen(role), _users(user)):
        print(line)


def _chosen(roles: Sequence[str] | None) -> list[Principal]:
    known = {p.name: p for p in PRINCIPALS}
    if odd := [role for role in roles or () if role not in known]:
        raise UsageError(f"--role {odd[0]!r}: give one of {', '.join(known)}")
    return [known[role] for role in roles or known]


def _users(pairs: Sequence[str] | None) -> dict[str, str]:
    users: dict[str, str] = {}
    for pair in pairs or ():
        role, _, name = pair.partition("=")
        if role not in {p.name for p in PRINCIPALS} or not name:
            raise UsageError(f"--user {pair!r}: give ROLE=NAME, such as all=weir")
        users[role] = name
    return users
