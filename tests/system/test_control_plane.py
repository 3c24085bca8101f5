"""The benchmark of the control plane, on a small site: it checks itself what runs and what is left on the hosts; and
two controllers at random on such hosts.

Environment variables of the latter: VCLUST_CHAOS_SECONDS (default 30; hours are fine) and VCLUST_CHAOS_SEED.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from vclust_py.site import PROJECT

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's"),
    pytest.mark.skipif(shutil.which("libvirtd") is None, reason="no libvirtd"),
]


@pytest.mark.parametrize("driver", ["qemu", "xen"])
def test_ansible_has_the_same_tasks_whatever_the_number_of_nodes(driver: str) -> None:
    benchmark = PROJECT / "tests/benchmarks/control_plane.py"
    argv = [sys.executable, benchmark, "--hosts", "3", "--nodes", "2,40", "--driver", driver, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout)["rows"]
    assert (few["nodes"], many["nodes"]) == (2, 40)
    assert few["tasks"] == many["tasks"] <= 10
    assert few["destroy"]["tasks"] == many["destroy"]["tasks"] <= 4
    assert _phases(few) == _phases(many) == ["request", "resolve", "cache", "place", "image", "create"]


def test_of_creates_at_once_as_many_succeed_as_there_is_room_for() -> None:
    benchmark = PROJECT / "tests/benchmarks/control_plane.py"
    argv = [sys.executable, benchmark, "--creates", "4", "--room", "2", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["creates"], row["room"]) == (4, 2)


def test_two_controllers_at_once_on_many_hosts() -> None:
    seconds, seed = os.environ.get("VCLUST_CHAOS_SECONDS", "30"), os.environ.get("VCLUST_CHAOS_SEED", "11")
    program = PROJECT / "tests/testbed/control/chaos.py"
    argv = [sys.executable, program, "--seconds", seconds, "--seed", seed]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _phases(row: dict[str, Any]) -> list[str]:
    return list(row["by_phase"])
