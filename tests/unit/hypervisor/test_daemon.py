"""When libvirt's daemons are started, and when they may end."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.hypervisor import daemon, kvm


def test_the_daemons_stay_while_a_domain_of_any_site_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is a process of that name; libvirt keeps a file for each domain that runs."""
    program, domains = tmp_path / "libvirtd", tmp_path / "qemu"
    program.symlink_to("/bin/sleep")
    domains.mkdir()
    (domains / "another-sites.node.xml").touch()
    monkeypatch.setattr(daemon, "_PIDS", tmp_path)
    monkeypatch.setattr(daemon, "_DOMAINS", (tmp_path / "none", domains))
    with subprocess.Popen([program, "60"]) as process:
        # The kernel tells the caller of a new program before it gives the process that program's name.
        while Path(f"/proc/{process.pid}/comm").read_text() != "libvirtd\n":
            time.sleep(0.01)
        (tmp_path / "libvirtd.pid").write_text(str(process.pid))
        daemon.stop()
        assert process.poll() is None
        (domains / "another-sites.node.xml").unlink()
        daemon.stop()
        assert process.wait(20) != 0


def test_a_daemon_that_hangs_in_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "libvirtd"
    program.symlink_to("/bin/sh")
    monkeypatch.setattr(daemon, "_PIDS", tmp_path)
    monkeypatch.setattr(daemon, "_DOMAINS", ())
    monkeypatch.setattr(daemon, "_STOP_TIMEOUT", 0.2)
    with subprocess.Popen([program, "-c", "trap '' TERM; echo; read line"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "libvirtd.pid").write_text(str(process.pid))
        daemon.stop()
        assert process.wait(20) == -signal.SIGKILL


def test_daemons_that_answer_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what does not answer is, by a process that nobody waits for, and where there is QEMU."""
    started: list[list[str]] = []
    monkeypatch.setattr(daemon.subprocess, "Popen", lambda argv, **options: started.append(argv[1:]))
    emulator = tmp_path / "qemu"
    monkeypatch.setattr(daemon, "_emulator", lambda: str(emulator))
    path = tmp_path / "socket"
    monkeypatch.setattr(daemon, "_SOCKETS", {"libvirtd": path})
    daemon.begin()
    assert started == []
    emulator.touch(mode=0o755)
    daemon.begin()
    assert started == [["-m", "vclust_py.hypervisor.daemon"]]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        daemon.begin()
    assert len(started) == 1


def test_the_process_that_starts_daemons_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not work, the next phase tells that needs them."""
    asked: list[bool] = []

    def ensure(*, kvm: bool) -> None:
        asked.append(kvm)
        raise VclustError("libvirtd: does not come up")

    monkeypatch.setattr(daemon, "ensure", ensure)
    monkeypatch.setattr(kvm, "works", lambda emulator: emulator.startswith("qemu-system-"))
    daemon.main()
    assert asked == [True]
