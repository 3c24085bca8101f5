"""`ansible-playbook` for sites of such hosts: the same program, but `libvirt.open` leads to their test driver.

VCLUST_TEST_START: seconds that a domain takes to start.
"""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # in the place of this folder

from ansible.cli.playbook import main  # noqa: E402

from control import translate  # noqa: E402

if __name__ == "__main__":
    translate.install(float(os.environ.get("VCLUST_TEST_START", 0)))
    main()
