"""On the path of a command's processes: whoever works in a phase is killed at its n-th statement to the store.

VCLUST_TEST_KILL is PHASE:N.  As the kernel or an administrator would do it: nothing cleans up.
"""

import os
import signal
import sys
from typing import Any

_phase, _, _number = os.environ.get("VCLUST_TEST_KILL", "").partition(":")


def _in_phase() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == f"vclust_py.phases.{_phase}":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


if _phase and "ansible-playbook" in " ".join(sys.orig_argv):
    from vclust_py.site.store import Store

    _execute = Store.execute
    _seen = 0

    def _counted(self: Store, *arguments: Any) -> Any:
        global _seen
        if _in_phase():
            _seen += 1
            if _seen == int(_number):
                os.kill(os.getpid(), signal.SIGKILL)
        return _execute(self, *arguments)

    Store.execute = _counted  # type: ignore[method-assign]
