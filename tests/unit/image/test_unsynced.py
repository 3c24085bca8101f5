"""A command that need not wait for the disk."""

import os
import subprocess
import sys

import pytest

from vclust_py.image import unsynced

SYNC = "import os; os.fsync(os.pipe()[0]); print('synced')"
"""Of a pipe, which cannot be synced."""


@pytest.mark.skipif(os.geteuid() != 0, reason="the filter is root's")
def test_nothing_below_it_waits_for_the_disk() -> None:
    inner = [sys.executable, "-c", SYNC]
    plain = subprocess.run(inner, capture_output=True, text=True, check=False)
    assert "Invalid argument" in plain.stderr
    outer = [sys.executable, "-I", unsynced.__file__, "sh", "-c", 'exec "$@"', "sh", *inner]
    done = subprocess.run(outer, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "synced\n"), done.stderr
