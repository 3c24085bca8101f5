"""Two controllers on one site that create, destroy, interrupt and kill at once, at random; and the checker itself.

What they do follows from a seed.  Environment variables: VCLUST_CHAOS_SECONDS (default 60; hours are fine) and
VCLUST_CHAOS_SEED, which a failure names.
"""

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from checker import check, here, overbooked, read
from machine import left_since, output, snapshot
from test_unhappy import ALL_ENDED, PIDS, Done, Vclust, all_ended

from vclust_py.site import Site

pytestmark = pytest.mark.system

SECONDS = float(os.environ.get("VCLUST_CHAOS_SECONDS", "60"))
SEED = os.environ.get("VCLUST_CHAOS_SEED", "11")
NAMES = ("chaos-a", "chaos-b", "chaos-c")
ENDINGS = {0, 2, 4, 130, -signal.SIGKILL}
"""How a command may end here: what the other controller does meanwhile, and no libvirtd, are plain errors."""


class Controller(threading.Thread):
    """One that does something of `DEEDS` until `deadline`; what went wrong is in `failures`."""

    def __init__(self, vclust: Vclust, number: int, deadline: float) -> None:
        super().__init__(name=f"controller {number}")
        self.vclust, self.deadline = vclust, deadline
        self.random = random.Random(f"{SEED}:{number}")  # noqa: S311
        self.done: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self.deadline and not self.failures:
            deed = self.random.choices(list(DEEDS), list(DEEDS.values()))[0]
            name = self.random.choice(NAMES)
            self.done.append(f"{deed.__name__} {name}")
            try:
                for what in deed(self, name):
                    self._judge(what)
            except BaseException as error:
                self.failures.append(f"{self.done[-1]}: {error!r}")

    def _judge(self, done: Done) -> None:
        if done.code not in ENDINGS or "Traceback" in done.err:
            self.failures.append(f"{self.done[-1]}: {done}")
        # Whatever is half done: nothing is ever given away twice.
        nodes = [node for node in read(self.vclust.root).nodes if node.machine is None]
        self.failures += overbooked("this machine", nodes, here(self.vclust.root))

    # What they do ------------------------------------------------------------------------------------------------

    def create(self, name: str) -> Iterator[Done]:
        yield self.vclust.start("create", self._request(name)).wait(ALL_ENDED)

    def interrupt(self, name: str) -> Iterator[Done]:
        yield from self._stopped(name, signal.SIGINT)

    def kill(self, name: str) -> Iterator[Done]:
        yield from self._stopped(name, signal.SIGKILL)

    def _stopped(self, name: str, number: signal.Signals) -> Iterator[Done]:
        running = self.vclust.start("create", self._request(name))
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(self.random.uniform(0.5, 25))
        running.process.send_signal(number)
        yield running.wait(ALL_ENDED)

    def destroy(self, name: str) -> Iterator[Done]:
        yield self.vclust.start("destroy", name).wait(ALL_ENDED)

    def look(self, name: str) -> Iterator[Done]:
        yield self.vclust.start("list").wait(ALL_ENDED)
        yield self.vclust.start("show", name).wait(ALL_ENDED)

    def no_libvirtd(self, name: str) -> Iterator[Done]:
        """Killed; whoever needs it next starts it again."""
        with suppress(OSError, ValueError):
            if not Path("/run/systemd/system").is_dir():
                os.kill(int((PIDS / "libvirtd.pid").read_text()), signal.SIGKILL)
        yield from self.look(name)

    def _request(self, name: str) -> Path:
        # All alike: whoever comes second finds a cluster of an equal request, and takes it up.
        return self.vclust.folder / f"{name}.ini"


DEEDS: dict[Callable[[Controller, str], Iterator[Done]], int] = {
    Controller.create: 4,
    Controller.interrupt: 3,
    Controller.kill: 3,
    Controller.destroy: 4,
    Controller.look: 1,
    Controller.no_libvirtd: 1,
}
"""What is done how often."""


@pytest.fixture
def vclust(site: Site, tmp_path: Path) -> Iterator[Vclust]:
    command = Vclust(tmp_path, root=site.root)
    for number, name in enumerate(NAMES):
        command.request(name, nodes=1, network=f"192.168.{90 + number}.0/24")
    for again in (True, False):
        for name in command.live() & set(NAMES):
            command("destroy", str(name))
        if again:
            yield command


def test_two_controllers_at_once(site: Site, vclust: Vclust) -> None:
    before = snapshot()
    controllers = [Controller(vclust, number, time.monotonic() + SECONDS) for number in (1, 2)]
    for controller in controllers:
        controller.start()
    for controller in controllers:
        controller.join()
    told = "\n".join(f"{one.name}: {', '.join(one.done)}" for one in controllers)
    told = f"VCLUST_CHAOS_SEED={SEED}\n{told}"
    print(f"\nCHAOS {told}")
    assert [line for one in controllers for line in one.failures] == [], told
    all_ended(vclust)

    # Whatever state they have left: one is taken up, the others are cleared, and all fits together.
    vclust("create", vclust.folder / f"{NAMES[0]}.ini")
    for name in NAMES[1:]:
        if name in vclust.live():
            vclust("destroy", name)
    assert check(site.root) == [], told
    assert vclust("ssh", NAMES[0], "--", "hostname").out.strip() == f"{NAMES[0]}01"
    vclust("destroy", NAMES[0])
    assert check(site.root) == [], told
    assert left_since(before) == {}, told


def test_the_checker_sees_what_does_not_fit(site: Site, vclust: Vclust) -> None:
    """One thing at a time is broken behind the site's back, and mended."""
    name, node = NAMES[0], f"{NAMES[0]}01.{NAMES[0]}"
    vclust("create", vclust.folder / f"{name}.ini")
    assert check(site.root) == []
    ((number, segment, digest),) = vclust.rows(
        "SELECT id, segment, images ->> 'root' FROM clusters WHERE destroyed IS NULL"
    )
    folder = site.clusters / f"{name}.{number}"
    here_is = "this machine: "

    def sees(*sentences: str) -> None:
        assert check(site.root) == list(sentences)

    (site.clusters / "nobody.7").mkdir()
    sees(f"{here_is}clusters/nobody.7 is no live cluster's")
    (site.clusters / "nobody.7").rmdir()

    (site.images / "layer-x.qcow2").touch()
    sees("images/layer-x.qcow2: has no manifest")
    (site.images / "layer-x.qcow2").unlink()

    manifest = next(site.images.glob(f"*-{str(digest)[:24]}.json"))
    manifest.rename(folder / "kept")
    assert {f"{name}: its image root, or one below it, is not there: {str(digest)[:12]}"} < set(
        check(site.root)
    )
    (folder / "kept").rename(manifest)

    output("nft", "delete", "element", "inet", "vclust_segments", "bridges", f"{{ {segment} }}")
    sees(f"{here_is}{name}: {segment} is not kept apart by the packet filter")
    output("nft", "add", "element", "inet", "vclust_segments", "bridges", f"{{ {segment} }}")

    output("ip", "link", "delete", f"{segment}r")
    sees(f"{here_is}{name}: its network lacks {segment}r")
    assert vclust("site", "repair").out.endswith(f": {name} repaired\n")
    sees()
    assert vclust("ssh", name, "--", "hostname").out.strip() == f"{name}01"

    (folder / "keys/known_hosts").rename(folder / "kept")
    sees(f"{name}: has no keys on the site manager")
    (folder / "kept").rename(folder / "keys/known_hosts")

    # A store that does not know of what runs: a leak; and that gives away more than there is.
    with sqlite3.connect(site.database) as database:
        database.execute("UPDATE nodes SET memory = memory + (1 << 42)")
    (said,) = check(site.root)
    assert said.startswith(f"{here_is}overbooked: ")
    with sqlite3.connect(site.database) as database:
        database.execute("UPDATE nodes SET memory = memory - (1 << 42)")
        database.execute("UPDATE clusters SET destroyed = 1 WHERE id = ?", (number,))
        database.execute("UPDATE nodes SET host = 'elsewhere'")
    assert {
        f"{here_is}{node} runs, and no live cluster has it",
        f"{here_is}{node} is defined, and no live cluster has it",
        f"{here_is}clusters/{folder.name} is no live cluster's",
        f"{here_is}network: {segment}, and no live cluster has it",
        f"{here_is}network: {segment} in the packet filter, and no live cluster has it",
    } <= set(check(site.root))
    with sqlite3.connect(site.database) as database:
        database.execute("UPDATE clusters SET destroyed = NULL WHERE id = ?", (number,))
        database.execute("UPDATE nodes SET host = 'localhost'")
    sees()

    output("virsh", "destroy", node)
    sees(f"{here_is}{node} is ready in the store, and does not run")
    assert f"{name}01 does not run on localhost; create with" in vclust("site", "repair").err
    sees()
    vclust("destroy", name)
    sees()
