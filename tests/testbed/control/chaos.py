"""Two controllers that create, destroy, interrupt and kill at once, at random, on hosts that keep books only.

    .venv/bin/python tests/testbed/control/chaos.py [--seconds 60] [--seed 11] [--hosts 2]

Each host has space for one node, and all clusters together ask for more than there is.  After each deed the hosts
themselves and the site's store are asked whether any space was given twice; at the end, once all clusters are
destroyed, whether anything is left.  What they do follows from the seed, when it happens from the machine.  Prints what
was done and how commands ended; the exit code is 1 when something was wrong.  Root.
"""

import argparse
import contextlib
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
# In the place of this folder.
sys.path[:1] = [str(TESTS.parent), str(TESTS / "unit"), str(TESTS / "testbed")]

from cache.cachesite import make_base  # noqa: E402
from repository import a_repository  # noqa: E402

from control import environment  # noqa: E402
from control.hosts import ControlHost, hosts, isolate  # noqa: E402
from vclust_py.site import Site, clusters  # noqa: E402
from vclust_py.site.store import Store  # noqa: E402

_benchmark = runpy.run_path(str(TESTS / "benchmarks/control_plane.py"))
a_request, an_inventory, RAM = (_benchmark[name] for name in ("a_request", "an_inventory", "RAM"))

VCLUST = Path(sys.executable).parent / "vclust"
NAMES = ("a", "b", "c", "d", "e")
"""Clusters of one node, which fills a host."""
DEEDS = {"create": 5, "interrupt": 3, "kill": 3, "destroy": 4, "list": 1}
"""How often each is done."""
STOPS = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}
FAILED = 4
ENDINGS = {0, 2, 3, FAILED, 130, -signal.SIGKILL}
"""How a command may end here: what the other controller does meanwhile is a plain error, and so is no space."""
LATEST = 8.0
"""Seconds after which a create is stopped at the latest."""
TIMEOUT = 300
"""Seconds that a command may take, on a machine with other work."""


class World:
    def __init__(self, folder: Path, site: Site, members: Sequence[ControlHost]) -> None:
        self.site, self.members = site, members
        self.inventory: Path = an_inventory(folder, site, members, "qemu")
        self.requests: dict[str, Path] = {name: a_request(folder, 1, name, RAM) for name in NAMES}

    def vclust(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [VCLUST, "-i", self.inventory, *words],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def overbooked(self) -> list[str]:
        """Hosts that have more than one node, as they say themselves or as the store has it."""
        found = [
            f"{host.name} runs {running} nodes"
            for host in self.members
            if (running := host.running() - 1) > 1  # the test driver has one domain of its own
        ]
        with contextlib.closing(Store(self.site)) as store:
            placed = Counter(node.host for cluster in clusters.live(store) for node in cluster.nodes)
        return found + [f"{host} was given to {count} nodes" for host, count in placed.items() if count > 1]

    def live(self) -> list[str]:
        with contextlib.closing(Store(self.site)) as store:
            return [cluster.name for cluster in clusters.live(store)]

    def left(self) -> list[str]:
        return [f"{host.name}: {name}" for host in self.members for name in host.left() if name != "test"]


class Controller(threading.Thread):
    """One that does something of DEEDS until `deadline`; `failures` is what went wrong."""

    def __init__(self, world: World, seed: str, number: int, deadline: float) -> None:
        super().__init__(name=f"controller {number}")
        self.world, self.deadline = world, deadline
        self.random = random.Random(f"{seed}:{number}")  # noqa: S311
        self.done: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self.deadline and not self.failures:
            deed = self.random.choices(list(DEEDS), list(DEEDS.values()))[0]
            name, stop = self.random.choice(NAMES), self.random.uniform(0.2, LATEST)
            try:
                code, said = self._do(deed, name, stop)
                self.done.append(f"{deed} {name}: {code}" + (f" ({said.strip()})" if code == FAILED else ""))
                if code not in ENDINGS or "Traceback" in said:
                    self.failures.append(f"{self.done[-1]}: {said}")
                self.failures += self.world.overbooked()
            except BaseException as error:
                self.failures.append(f"{deed} {name}: {error!r}")

    def _do(self, deed: str, name: str, stop: float) -> tuple[int, str]:
        words: dict[str, Sequence[str | Path]] = {"destroy": ("destroy", name), "list": ("list",)}
        running = self.world.vclust(*words.get(deed, ("create", self.world.requests[name])))
        if deed in STOPS:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(stop)
            running.send_signal(STOPS[deed])
        # What a killed command has started holds its output until it has ended, too.
        _, said = running.communicate(timeout=TIMEOUT)
        return running.returncode, said


def run(world: World, seconds: float, seed: str) -> Iterator[str]:
    """What was wrong, in one line each; prints what was done."""
    controllers = [Controller(world, seed, number, time.monotonic() + seconds) for number in (1, 2)]
    for controller in controllers:
        controller.start()
    for controller in controllers:
        controller.join()
        print(f"{controller.name}: {', '.join(controller.done)}")
        yield from controller.failures
    for name in world.live():
        destroying = world.vclust("destroy", name)
        _, said = destroying.communicate(timeout=TIMEOUT)
        if destroying.returncode:
            yield f"destroy {name} at the end: {said}"
    yield from (f"live at the end: {name}" for name in world.live())
    yield from (f"left at the end: {name}" for name in world.left())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="hours are fine")
    parser.add_argument("--seed", default="11")
    parser.add_argument("--hosts", type=int, default=2)
    arguments = parser.parse_args()
    isolate()
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vclust-control-", dir="/var/tmp"))
        )
        (folder / "repository").mkdir()
        repository = stack.enter_context(a_repository(folder / "repository"))
        site = repository.site(folder / "site", cache_every=0)
        make_base(site)
        members = stack.enter_context(hosts(site, folder / "hosts", arguments.hosts))
        images = {path.name: path.stat().st_size for path in site.images.iterdir()}
        for host in members:
            host.hold_images(images)
        print(f"seed {arguments.seed}")
        wrong = list(run(World(folder, site, members), arguments.seconds, arguments.seed))
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
