#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `place`: an adapter to `vclust_py.phases.place`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_place
author: vclust contributors
version_added: "0.1"
short_description: Choose the hosts of the nodes of a virtual cluster
description:
  - Chooses a host for every node, all or nothing, and reserves what they need there.
  - Asks every host what it has and what runs there, and keeps that with its time in the state of the site.
  - A host that does not answer, or whose C(state) is C(drain), takes no node.
  - Tells what creating the cluster would download, build and send, and how long it may take.
extends_documentation_fragment:
  - vclust
  - vclust.hosts
  - vclust.request
options:
  lock:
    description: Digest of the lock, as returned by M(vclust_resolve).
    type: str
    required: true
  cache:
    description: Digest of the VD cache, as reserved by M(vclust_cache); empty for none.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Place the nodes
  vclust_place:
    site: "{{ vclust_site }}"
    request: "{{ vclust_request }}"
    lock: "{{ resolved.lock }}"
    cache: "{{ reserved.cache.digest | default('') }}"
    hosts: "{{ inventory_hostname | vclust_site_hosts(groups, hostvars) }}"
  register: placed

- name: Place them on this machine, and change nothing yet
  vclust_place:
    request: "{{ vclust_request }}"
    lock: "{{ resolved.lock }}"
    hosts:
      - name: localhost
        uri: qemu:///system
  check_mode: true
"""

RETURN = """
plan:
  description:
    - Placement, bytes to download, build and send, and an estimate of seconds from past runs.
    - Its C(hosts) are what is known of each host, with the C(age) of that in seconds, also of one that does not answer.
  type: dict
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
problems:
  description: On a mistaken request, every mistake.
  type: list
  elements: str
  returned: failure
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, host_options, request_options, run_module, run_phase
from vclust_py.phases import place
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **request_options(),
        **host_options(),
        "lock": {"type": "str", "required": True},
        "cache": {"type": "str", "default": ""},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(place.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
