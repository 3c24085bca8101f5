"""When libvirt's daemons may end."""

import subprocess
import time
from pathlib import Path

import pytest

from vclust_py.hypervisor import daemon


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
