"""A PostgreSQL of its own, on a free port of 127.0.0.1."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.servers import free_port

_PASSWORD = "p@ss/wörd"
"""With what must be quoted in a URL."""


def _programs() -> Path:
    """The newest PostgreSQL's programs (Debian keeps them off the path); skips where there is none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda folder: int(folder.parent.name))
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    pytest.skip("no PostgreSQL on this machine (initdb): apt-get install postgresql")


def _not_root() -> str | None:
    """Who runs the server if we are root, whom it refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        if any(user.pw_name == name for user in pwd.getpwall()):
            return name
    pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


@dataclass(frozen=True)
class Postgres:
    """A server with an empty database ``dagster`` and a user of that name."""

    port: int
    programs: Path

    @property
    def env(self) -> dict[str, str]:
        """What deploy/dagster.yaml reads, and psql."""
        return {
            "DAGSTER_PG_HOST": "127.0.0.1", "DAGSTER_PG_PORT": str(self.port), "DAGSTER_PG_DB": "dagster",
            "DAGSTER_PG_USERNAME": "dagster", "DAGSTER_PG_PASSWORD": _PASSWORD,
        }  # fmt: skip

    def run(self, program: str, *arguments: str) -> str:
        """The output of psql, pg_dump or another client, as that user."""
        env = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "dagster", "PGPASSWORD": _PASSWORD,
        }  # fmt: skip
        command = [str(self.programs / program), *arguments]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    def ask(self, sql: str, database: str = "dagster") -> list[list[str]]:
        """The rows of an answer, as text."""
        lines = self.run("psql", "-d", database, "-AtX", "-F", "\t", "-c", sql).splitlines()
        return [line.split("\t") for line in lines]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start one with its data in a temporary folder, and stop it."""
    programs, user, port = _programs(), _not_root(), free_port()
    # Not in pytest's folders: another user cannot pass through them, and the path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        if user is not None:
            shutil.chown(folder, user)
        with _running(programs, user, port, Path(folder)) as server:
            yield server


@contextmanager
def _running(programs: Path, user: str | None, port: int, folder: Path) -> Iterator[Postgres]:
    data = folder / "data"

    def run(program: str, *arguments: str | Path) -> None:
        command: Sequence[str] = [str(programs / program), *map(str, arguments)]
        done = subprocess.run(command, user=user, capture_output=True, text=True, cwd=folder, env={"LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, f"{program}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    run("initdb", "--pgdata", data, "--username", "admin", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
    # Passwords are asked for, as in earnest, of all but the administrator on the socket.
    (data / "pg_hba.conf").write_text("local all admin trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    # pg_ctl's own log must be a file: with a pipe it would wait for the server to end.
    run("pg_ctl", "start", "--pgdata", data, "--wait", "--log", data / "server.log", "--options", options)
    try:
        quoted = _PASSWORD.replace("'", "''")
        for sql in (f"CREATE ROLE dagster LOGIN CREATEDB PASSWORD '{quoted}'", "CREATE DATABASE dagster OWNER dagster"):
            run("psql", "-h", folder, "-p", str(port), "-U", "admin", "-d", "postgres", "-c", sql)
        yield Postgres(port, programs)
    finally:
        run("pg_ctl", "stop", "--pgdata", data, "--mode", "immediate", "--wait")
