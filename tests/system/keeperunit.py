"""The keeper within what its unit leaves it of root's rights, where systemd does not run (`sandboxed`)."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
from jinja2 import Template

from vclust_py.hypervisor import daemon
from vclust_py.site import PROJECT

UNIT = PROJECT / "roles/site_manager/templates/vclust-keeper.service.j2"
_SYSTEMCTL = """\
#!/bin/sh
# In place of systemctl(1): asks for a unit outside, and waits for its exit status.
echo "$*" > {folder}/asked
read status < {folder}/answer
exit "$status"
"""


@contextlib.contextmanager
def keeper_unit(root: Path, **settings: object) -> Iterator["subprocess.Popen[str]"]:
    """A keeper of the site of these settings, whose root is `root`; it learns nothing, and ends well."""
    site = {"root": root, "cache_every": 0, "base_renewal": 0, **settings}
    with tempfile.TemporaryDirectory(prefix="keeper-", dir=root) as name:
        folder = Path(name)
        unit = folder / "unit"
        unit.write_text(Template(UNIT.read_text()).render(_site_manager_root=root, site_manager_name="t"))
        with _systemctl(folder), _libvirt():
            process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "slave"),
                    *(sys.executable, Path(__file__).with_name("sandboxed.py"), unit),
                    *(sys.executable, "-m", "vclust_py.life.keeper"),
                ],
                cwd=PROJECT,
                env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdin is not None
            json.dump({"site": site}, process.stdin, default=str)
            process.stdin.close()
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(120)
            assert code == 0, process.stdout.read() if process.stdout else ""


@contextlib.contextmanager
def _libvirt() -> Iterator[None]:
    """Has libvirt run out here, as systemd would: one that the keeper had to start would be within its limits, too, for
    all who come later.
    """
    daemon.main()
    connection = libvirt.open("qemu:///system")  # without a client it ends by itself
    try:
        yield
    finally:
        connection.close()


@contextlib.contextmanager
def _systemctl(folder: Path) -> Iterator[None]:
    """In `folder`, a program that has the units of namespaces run, out here."""
    program, asked, answer = folder / "systemctl", folder / "asked", folder / "answer"
    program.write_text(_SYSTEMCTL.format(folder=folder))
    program.chmod(0o755)
    os.mkfifo(asked)
    os.mkfifo(answer)

    def work() -> None:
        while words := asked.read_text().strip():
            found = re.fullmatch(r"start vclust-netns-(add|delete)@(vc[0-9a-f]{10})\.service", words)
            assert found is not None, words
            done = subprocess.run(["ip", "netns", *found.groups()], check=False)
            answer.write_text(f"{done.returncode}\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        asked.write_text("\n")
        thread.join()
