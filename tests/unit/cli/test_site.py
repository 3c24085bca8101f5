"""`vclust site` as a user types it: this machine manages a site whose hosts are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vclust_py import pki
from vclust_py.cli.tables import show_hosts
from vclust_py.site import Site
from vclust_py.site.hosts import knows_host, observe_hosts
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

INVENTORY = """\
---
all:
  children:
    site_north:
      vars:
        ansible_python_interpreter: "{{ ansible_playbook_python }}"
        vclust_site: {root: %(root)s}
      children:
        site_managers:
          hosts:
            localhost: {ansible_connection: local}
        vm_hosts:
          vars:
            ansible_host: 127.0.0.1
            ansible_port: 1
          hosts:
            away:
              vclust_libvirt_uri: xen+tls://127.0.0.1:1/system
              vclust_host_state: drain
            gone:
              vclust_libvirt_uri: xen+tls://127.0.0.1:1/system
              vclust_host_state: absent
"""


class Command:
    def __init__(self, folder: Path) -> None:
        self.site = Site(root=folder / "site")
        self.site.make_directories()
        self.inventory = folder / "hosts.yml"
        self.inventory.write_text(INVENTORY % {"root": self.site.root})

    def __call__(self, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [Path(sys.executable).with_name("vclust"), "-i", self.inventory, "site", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def vclust(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_status(vclust: Command) -> None:
    done = vclust("status", code=4)
    assert "away  drain, away  xen" in done.stdout
    assert (
        "away: libvirt does not listen at 127.0.0.1 port 1\n  hint: on away: systemctl status libvirtd"
        in done.stdout
    )
    (found,) = json.loads(vclust("status", "--json", code=4).stdout)
    assert (found["site"], found["manager"], found["authority"]) == ("north", "localhost", {})
    (host,) = found["hosts"]  # who is absent is none
    assert (host["name"], host["reachable"], host["seen"]) == ("away", False, None)


def test_a_host_that_is_gone_for_good(vclust: Command) -> None:
    pki.roll_out(vclust.site, pki.Machine("gone", "127.0.0.1"))
    store = Store(vclust.site)
    observe_hosts(store, {"gone": {}}, {})
    assert "gone: 1 thing would be changed" in vclust("rollout", "--limit", "gone", "--check").stdout
    assert knows_host(store, "gone")
    done = vclust("rollout", "--limit", "gone", "--diff")
    assert "    -gone: known to the site" in done.stdout
    assert (
        "gone: out of the site; nothing was done on the machine itself, which does not answer: "
        in done.stdout
    )
    assert not knows_host(store, "gone")
    assert "gone: as it should be" in vclust("rollout", "--limit", "gone").stdout
    store.close()


def test_keys_wait_for_a_host_that_is_away(vclust: Command) -> None:
    """The playbook ends with the host's failure; what was begun is gone on with by the next roll-out."""
    pki.roll_out(vclust.site)
    done = vclust("rotate-keys", "--limit", "localhost:away", code=2)
    assert "unrecognized arguments" in done.stderr  # keys are all hosts'
    done = vclust("rotate-keys", code=4)
    assert "localhost: 1 thing changed" in done.stdout
    assert "away: failed: " in done.stdout
    assert "the old ones serve as well until all hosts have followed: run the roll-out again" in done.stderr
    assert len(list(vclust.site.pki.glob("old-ca*"))) == 2


def test_ages_and_ends_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    host = {
        "name": "h1", "state": "active", "driver": "qemu", "reachable": True, "there": "one (n01)", "problems": [],
        "facts": {"accelerator": "kvm", "cpus": 8, "memory": 16 * 10**9, "disk_free": 10**12},
        "used": {"cpus": 2, "memory": 10**9, "disk": 0}, "versions": {"libvirt": "9.0.0", "hop": "1"},
        "certificates": {"libvirt": 4e9, "hop": 5e9},
    }  # fmt: skip
    ages = {None: "never", 5: "5 s ago", 130: "2 min ago", 7300: "2 h ago", 200_000: "2 days ago"}
    told = {"site": "north", "manager": "m", "leftovers": [], "authority": {"authority": 0.0}}
    show_hosts({**told, "hosts": [{**host, "age": age} for age in ages]}, title=True, first=True)
    said = capsys.readouterr().out
    assert said.startswith("north (m):\n")
    for age in ages.values():
        assert f"one (n01)  {age}" in said
    assert "qemu, kvm  2 of 8  1.0 GB of 16 GB  1.0 TB free" in said
    assert "until 2096-10-02" in said
    assert "the certificate of the authority ends on 1970-01-01\n  hint: vclust site rollout" in said
