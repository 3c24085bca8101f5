"""Processes and interruptions."""

import subprocess
import sys

IN_A_DESTRUCTOR = """
import os, signal, time
from vclust_py.run import keep_interruptions
keep_interruptions()
class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass
try:
    one = Slow()
    del one
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_that_python_drops_comes_again() -> None:
    done = subprocess.run(
        ["env", "--default-signal=INT", sys.executable, "-c", IN_A_DESTRUCTOR],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "interrupted\n", done.stderr
