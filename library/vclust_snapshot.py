#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of a cluster's disks: an adapter to `vclust_py.life.snapshot`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_snapshot
author: vclust contributors
version_added: "0.1"
short_description: Take, restore or remove a snapshot of a virtual cluster's disks
description:
  - C(present) copies the disks of all nodes. A tag that is there already is refused, as it is of another time.
  - C(restored) gives all nodes the disks of the snapshot. What was on theirs since is lost.
  - For both, nodes that run are shut down, and started again until they are ready.
  - C(absent) removes the copies. A snapshot that is not there is no error.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  tag:
    description: What the snapshot is called, within its cluster.
    type: str
    required: true
  state:
    description: What to do with it.
    type: str
    choices: [present, absent, restored]
    default: present
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Keep the disks as they are before an experiment
  vclust_snapshot:
    site: "{{ vclust_site }}"
    name: hello-mpi
    tag: before

- name: Go back to it
  vclust_snapshot:
    name: hello-mpi
    tag: before
    state: restored

- name: Remove it
  vclust_snapshot:
    name: hello-mpi
    tag: before
    state: absent
"""

RETURN = """
restarted:
  description: Whether the nodes ran before, and were started again after it.
  type: bool
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.arguments import checked
from vclust_py.life import snapshot
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    state = {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"}
    return {**cluster_options(), "tag": {"type": "str", "required": True}, "state": state}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    tag = checked("tag", "tag", params["tag"])
    return run_phase(snapshot.to_state(params["state"], tag), session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
