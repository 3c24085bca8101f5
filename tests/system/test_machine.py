"""What tests take for their own on a machine that others use too, and what not.

That real clusters' segments have the names which are looked for is seen in test_cluster.py.
"""

import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from machine import left_since, output, segments_of, snapshot

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="interfaces and mounts are root's"),
]


class Leftovers:
    """One of each kind for a site below `folder`, taken away at the end."""

    def __init__(self, folder: Path, stack: ExitStack, environment: dict[str, str]) -> None:
        (folder / "site").mkdir()
        with contextlib.closing(sqlite3.connect(folder / "site/state.db")) as database, database:
            database.execute("CREATE TABLE clusters (id INTEGER, name TEXT, created REAL)")
            database.execute("INSERT INTO clusters VALUES (1, ?, ?)", (folder.name, time.time()))
        (self.segment,) = segments_of(folder / "site/state.db")
        for kind in (["netns"], ["link"]):
            output("ip", *kind, "add", self.segment, *(["type", "bridge"] if kind == ["link"] else []))
            stack.callback(output, "ip", *kind, "delete", self.segment)
        image, self.place = folder / "image", folder / "place"
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        self.loop = output("losetup", "--show", "--find", str(image)).strip()
        stack.callback(output, "losetup", "--detach", self.loop)
        self.place.mkdir()
        output("mount", "-t", "tmpfs", "leftover", str(self.place))
        stack.callback(output, "umount", str(self.place))
        process = subprocess.Popen(["unshare", "--fork", "sleep", "600"], env=environment)
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.process = process.pid


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_what_the_tests_leave_is_found_and_what_others_have_is_not(tmp_path: Path, stack: ExitStack) -> None:
    before = snapshot()
    elsewhere = Path(stack.enter_context(TemporaryDirectory(dir="/var/tmp")))
    Leftovers(elsewhere, stack, {"PATH": os.environ["PATH"]})
    assert left_since(before, patience=0) == {}
    own = Leftovers(tmp_path, stack, {**os.environ})
    left = left_since(before, patience=0)
    assert {kind: left[kind] for kind in ("interfaces", "namespaces", "loop devices")} == {
        "interfaces": {own.segment},
        "namespaces": {own.segment},
        "loop devices": {own.loop},
    }
    assert left["mounts"] == {str(own.place), f"/run/netns/{own.segment}"}
    assert [line.split()[:2] for line in left["processes"]] == [[str(own.process), "unshare"]]
