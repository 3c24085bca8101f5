"""A phase on another machine, by a real ssh connection: its steps there, the lines here, its end with its controller.

The phase is `resolve`, whose apt waits for an archive that answers nothing.
"""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from repository import Repository
from sshd import PROGRAM, Sshd, sshd
from test_module import WORK, ended

from vclust_py import request, steps, timing
from vclust_py.cli.runner import play
from vclust_py.site import PROJECT, Site, clusters, records
from vclust_py.site.store import Store

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's"),
    pytest.mark.skipif(PROGRAM is None, reason="no sshd: apt-get install openssh-server"),
]

ASKED = {"hardware": {"number_of_nodes": 40}, "software": {"name": "many"}}


def wait_until(holds: Callable[[], object], what: Callable[[], object]) -> None:
    end = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


# The steps --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    clusters.register(store, request.from_mapping(ASKED, "test"))
    for number in range(40):
        store.execute(
            "INSERT INTO nodes (cluster, position, name, host, uri, address, mac, uuid, cpus, memory, disk)"
            " VALUES (1, ?, ?, 'h', '', ?, ?, ?, 1, 1, 1)",
            (number, f"n{number}", f"10.0.0.{number}", f"m{number}", f"u{number}"),
        )
    yield store
    store.close()


def test_a_tenth_of_the_nodes_is_a_step(store: Store) -> None:
    def look() -> tuple[str, str]:
        return steps.step(store.site.root, "many", "install")

    assert look() == ("", "")
    keys = []
    with timing.phase(store, clusters.get(store, "many"), "install") as record:
        record.flush()
        assert look()[1] == ""  # nothing to tell yet
        for number in range(40):
            record.node(f"n{number}", time.time(), time.time())
            record.flush()
            keys.append(look()[0])
            assert look()[1] == f"install: {number + 1} of 40 nodes"
    assert len(set(keys)) == 11
    assert look()[1] == "install: 40 of 40 nodes"  # for a while after its end
    store.execute("UPDATE phases SET end = end - 60 WHERE node = ''")
    assert look() == ("", "")
    with timing.phase(store, clusters.get(store, "many"), "install"):
        assert look()[1] == ""  # what an earlier run has done is not this one's


def test_messages_and_tenths_of_the_work_are_steps(store: Store) -> None:
    with timing.phase(store, clusters.get(store, "many"), "image") as record:
        said = []
        for message, done in (("unpack", 10), ("unpack", 19), ("unpack", 20), ("configure", 20)):
            record.report_all([{"node": "", "message": message, "done": done, "total": 100}])
            record.flush()
            said.append(steps.step(store.site.root, "many", "image"))
    assert [line for _, line in said] == [
        "image: unpack 10/100",
        "image: unpack 19/100",
        "image: unpack 20/100",
        "image: configure 20/100",
    ]
    assert said[0][0] == said[1][0]
    assert len({key for key, _ in said}) == 3


def test_the_command_waits_for_a_step_that_is_not_known(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(store.site.root), "many", "create"]
    with timing.phase(store, clusters.get(store, "many"), "create") as record:
        record.report("start", 1, 40)
        record.flush()
        assert steps.main([*argv, ""]) == 0
        key, line = capsys.readouterr().out.splitlines()
        assert line == "create: start 1/40"
        later = threading.Timer(1, record.report, ["start", 40, 40])
        later.start()
        assert steps.main([*argv, key]) == 0
        later.join()
    assert capsys.readouterr().out.splitlines()[1] == "create: start 40/40"


def test_there_are_no_steps_where_there_is_no_store(tmp_path: Path) -> None:
    assert steps.step(tmp_path / "none", "x", "create") == ("", "")
    assert not (tmp_path / "none").exists()


# Over ssh ---------------------------------------------------------------------------------------------------------


class Silent(http.server.BaseHTTPRequestHandler):
    """An archive that takes every question and answers none until it is told to."""

    def do_GET(self) -> None:
        self.server.asked.set()  # type: ignore[attr-defined]
        self.server.go_on.wait(120)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # who asked may have gone
            self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class Elsewhere:
    """A site whose manager is reached by ssh, with an archive that does not answer."""

    folder: Path
    sshd: Sshd
    archive: http.server.ThreadingHTTPServer

    @property
    def store(self) -> Store:
        return Store(Site(root=self.folder / "site"))

    @property
    def asked(self) -> threading.Event:
        event: threading.Event = self.archive.asked  # type: ignore[attr-defined]
        return event

    def answer(self) -> None:
        self.archive.go_on.set()  # type: ignore[attr-defined]

    def outcomes(self) -> list[str]:
        with contextlib.closing(self.store) as store:
            rows = store.rows("SELECT outcome FROM phases WHERE phase = 'resolve'") if store.exists else []
            return [row["outcome"] for row in rows]

    def processes(self) -> list[str]:
        """Whatever works on the site's folder, over there; not a controller."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.folder / "site") in line + (path.parent / "environ").read_text(errors="replace"):
                    found.append(line)
        return found

    def controller(self) -> "subprocess.Popen[str]":
        """As in a container of AWX: in a session of its own, the output to a pipe."""
        return subprocess.Popen(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", self.folder / "hosts", "-e", f"@{self.folder / 'asked.json'}"),
                "playbooks/create_vcluster.yml",
            ],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def elsewhere(toy: Repository, tmp_path: Path) -> Iterator[Elsewhere]:
    archive = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    archive.asked, archive.go_on = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=archive.serve_forever, daemon=True).start()
    port = archive.server_address[1]
    sources = tmp_path / "silent.sources"
    sources.write_text(toy.sources.read_text().replace(f"file:{toy.path}", f"http://127.0.0.1:{port}"))
    with sshd(tmp_path / "sshd") as server:
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": server.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(server.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={server.known_hosts}",
            "ansible_control_path_dir": str(tmp_path / "cp"),
            "ansible_python_interpreter": sys.executable,
            "vclust_libvirt_uri": "test:///default",
            "vclust_site": {"root": str(tmp_path / "site"), "suite": "toy", "sources": str(sources)},
        }
        site = {"site_managers": {"hosts": {"far": variables}}, "vm_hosts": {"hosts": {"far": {}}}}
        (tmp_path / "hosts").write_text(
            yaml.safe_dump({"all": {"children": {"site_main": {"children": site}}}})
        )
        (tmp_path / "asked.json").write_text(json.dumps({"vclust_request": ASKED}))
        there = Elsewhere(tmp_path, server, archive)
        yield there
        there.answer()
        archive.shutdown()
        archive.server_close()
        # What keeps the connection for the next task.
        for pid in server.connections():
            os.kill(pid, signal.SIGTERM)


def test_the_steps_of_a_phase_are_in_the_output_while_it_works(elsewhere: Elsewhere) -> None:
    said: list[tuple[str, str]] = []
    waiting = [10, 55, 100]

    def next_step(phase: str, message: str) -> None:
        """Write what the phase would write next, by another connection to the store, once a step has come here."""
        said.append((phase, message))
        if not waiting:
            elsewhere.answer()
            return
        with contextlib.closing(elsewhere.store) as store:
            records.add(store, [(1, phase, "", "reading", waiting.pop(0), 100, time.time())], [])

    outcome = play(
        "create_vcluster.yml",
        {"vclust_request": ASKED},
        inventory=elsewhere.folder / "hosts",
        on_step=next_step,
    )
    assert (outcome.phase, outcome.exit_code) == ("resolve", 4)
    assert [message for _, message in said] == [
        "fetching the package index of toy",
        "reading 10/100",
        "reading 55/100",
        "reading 100/100",
    ]
    assert {phase for phase, _ in said} == {"resolve"}
    assert outcome.tasks == 3


def _cancel(job: "subprocess.Popen[str]", elsewhere: Elsewhere) -> None:
    job.terminate()


def _interrupt(job: "subprocess.Popen[str]", elsewhere: Elsewhere) -> None:
    """Until it ends: Ansible loses one that comes at a bad moment, as `vclust_py.cli.runner` knows."""
    for _ in range(3):
        job.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(30)
            return


def _lose_container(job: "subprocess.Popen[str]", elsewhere: Elsewhere) -> None:
    """All that was in it, the kept connection among that.

    Found before anything is killed: what runs ssh ends by itself where its connection is gone.
    """
    mark = str(elsewhere.folder / "sshd").encode()
    inside = [*_below(job.pid), job.pid]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if line.startswith(b"ssh") and mark in line and b"sshd\0-D" not in line:
                inside.append(int(path.parent.name))
    for pid in inside:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """All that a process has started, and those have; one may end meanwhile."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [below for child in map(int, words) for below in (child, *_below(child))]


def _lose_connection(job: "subprocess.Popen[str]", elsewhere: Elsewhere) -> None:
    for pid in elsewhere.sshd.connections():
        os.kill(pid, signal.SIGKILL)


def state(job: "subprocess.Popen[str]", elsewhere: Elsewhere) -> str:
    """What there is to know when it has not come to its end."""
    return f"{elsewhere.outcomes()}, controller: {job.poll()}, at work: {elsewhere.processes()}"


@pytest.mark.parametrize("end", [_cancel, _interrupt, _lose_container, _lose_connection])
def test_a_module_elsewhere_ends_with_its_controller(
    elsewhere: Elsewhere, end: Callable[["subprocess.Popen[str]", Elsewhere], None]
) -> None:
    job = elsewhere.controller()
    try:
        assert elsewhere.asked.wait(90), job.stdout.read() if job.stdout else ""
        assert elsewhere.outcomes() == ["running"]
        end(job, elsewhere)
        wait_until(lambda: elsewhere.outcomes() == ["interrupted"], lambda: state(job, elsewhere))
        wait_until(lambda: not elsewhere.processes(), lambda: state(job, elsewhere))
        job.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    if end is _lose_container:  # launched again it goes on, with the same cluster
        elsewhere.answer()
        told, _ = elsewhere.controller().communicate(timeout=120)
        assert "cannot fetch the package index" in told
        first, second = elsewhere.outcomes()
        assert (first, second.partition(":")[0]) == ("interrupted", "failed")
        with contextlib.closing(elsewhere.store) as store:
            assert len(store.rows("SELECT id FROM clusters")) == 1


def test_a_module_ends_with_its_connection_though_somebody_holds_its_output(tmp_path: Path) -> None:
    """As sudo does where it makes a terminal."""
    (tmp_path / "work").write_text(WORK)
    with sshd(tmp_path / "sshd") as server:
        options = [f"UserKnownHostsFile={server.known_hosts}", "IdentitiesOnly=yes", f"Port={server.port}"]
        login = subprocess.Popen(
            [
                *(
                    "ssh",
                    "-F",
                    "/dev/null",
                    "-i",
                    server.key,
                    *(word for one in options for word in ("-o", one)),
                ),
                *("root@127.0.0.1", f"{sys.executable} {tmp_path}/work {tmp_path} | cat >/dev/null"),
            ],
            stdin=subprocess.DEVNULL,
        )
        wait_until((tmp_path / "begun").exists, lambda: "it did not begin")
        login.kill()
        login.wait()
        assert ended(tmp_path) == "interrupted {'exit_code': 130}"
