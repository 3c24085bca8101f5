"""`vclust send` and the module under it: a real hop of a site of its own, reached by the playbook."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hops import Hosts, Running, made

from vclust_py.chain import PORT, File, Progress, push
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.site import PROJECT, Site

INVENTORY = """\
all:
  children:
    site_test:
      children:
        site_managers:
          hosts:
            localhost: {{ansible_connection: local, ansible_python_interpreter: "{python}"}}
        vm_hosts:
          hosts:
            h1: {{vclust_libvirt_uri: "xen+tls://127.0.0.1/system"}}
      vars:
        vclust_site: {{root: "{root}"}}
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    if os.geteuid() != 0:
        pytest.skip("the site is root's")
    hosts = Hosts(tmp_path, made(tmp_path))
    monkeypatch.setattr("hops.free_port", lambda address: PORT)
    (host,) = hosts.start(1, name="h1")
    yield host
    host.end()


def vclust(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(INVENTORY.format(python=sys.executable, root=tmp_path / "site"))
    argv = [
        sys.executable,
        "-c",
        "from vclust_py.cli import main; main()",
        "-i",
        str(inventory),
        "send",
        *words,
    ]
    return subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_files_are_sent_and_then_there(host: Running, tmp_path: Path) -> None:
    file = tmp_path / "ein großes Bild.img"
    file.write_bytes(os.urandom(1 << 20))
    would = vclust(tmp_path, str(file), "--check")
    assert (would.returncode, would.stdout) == (0, f"h1: lacks {file.name}\n"), would.stderr
    assert list(host.folder.iterdir()) == []
    got = vclust(tmp_path, str(file)).stdout
    assert re.fullmatch(rf"h1: got {file.name}: 1\.0 MB in \d+\.\d s, \d+ MB/s\n", got), got
    assert (host.folder / file.name).read_bytes() == file.read_bytes()
    rows = json.loads(vclust(tmp_path, str(file), "--json").stdout)
    assert rows == {"h1": {"files": [], "bytes": 0, "received": 0, "seconds": rows["h1"]["seconds"]}}
    again = vclust(tmp_path, str(file), "--to", "h1")
    assert again.stdout == "h1: has them all\n"


def test_trouble_that_passed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("the site is root's")
    hosts = Hosts(tmp_path, made(tmp_path))
    monkeypatch.setattr("hops.free_port", lambda address: PORT)
    monkeypatch.setenv("HONEST", "0")
    monkeypatch.setenv("ONCE", "1")
    (host,) = hosts.start(1, name="h1", program=str(PROJECT / "tests/security/chain_liar.py"))
    try:
        done = vclust(tmp_path, "/etc/hosts")
    finally:
        host.end()
    assert (done.returncode, done.stdout.startswith("h1: got hosts: ")) == (0, True)
    assert (
        "vclust: warning: h1 got wrong data from the site manager: a block has a wrong tag; " in done.stderr
    )


def test_what_cannot_be_sent_is_said(host: Running, tmp_path: Path) -> None:
    for words, said in (
        ((str(tmp_path / "none"),), f"{tmp_path / 'none'}: No such file or directory"),
        (("/etc/hosts", "--to", "nobody"), "nobody: got no such group or host"),
    ):
        done = vclust(tmp_path, *words)
        assert done.returncode == 4
        assert said in done.stderr
    done = vclust(tmp_path, "/etc/hosts", "--to", "localhost")
    assert (done.returncode, done.stdout) == (2, "")
    assert "localhost: none of these hosts is another machine than its site manager" in done.stderr
    host.end()
    done = vclust(tmp_path, "/etc/hosts")
    assert done.returncode == 4
    assert "h1: not reached: Connection refused\n  hint: is that machine up?" in done.stderr


def test_progress_is_there_while_files_are_on_their_way(tmp_path: Path) -> None:
    site = Site(root=tmp_path)
    assert push.progress(site) == []
    with push._progress(site) as tell:
        for rate, eta, said in (
            (0.0, math.inf, "slowest h1, 0 MB/s, MB"),
            (2e7, 4.4, "slowest h1, 20 MB/s, 4 s left, MB"),
        ):
            tell(Progress({"h1": 12 * 10**6, "h2": 10**8}, 10**8, "h1", rate, eta))
            assert push.progress(site) == [
                {"phase": "send", "node": "", "message": said, "done": 12, "total": 100},
                {"phase": "send", "node": "h1", "message": "receive, MB", "done": 12, "total": 100},
                {"phase": "send", "node": "h2", "message": "receive, MB", "done": 100, "total": 100},
            ]
    assert push.progress(site) == []


def test_the_site_manager_has_its_own_files(tmp_path: Path) -> None:
    with pytest.raises(VclustError):
        push.push(Site(root=tmp_path), [File(tmp_path / "none")], [Host("h1")])
