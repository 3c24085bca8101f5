#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a site offers to a request: an adapter to `vclust_py.offers`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_offer
author: vclust contributors
version_added: "0.1"
short_description: Ask a site how soon it could make a virtual cluster
description:
  - Tells whether the site has a cluster of that name, or else how many seconds each phase of making it may take.
  - Fails as the phases up to C(place) would, where the site has no space for it or cannot have its packages.
  - Reserves nothing.
extends_documentation_fragment:
  - vclust
  - vclust.hosts
  - vclust.request
options:
  locked:
    description: A lock to use as it is, as for M(vclust_resolve).
    type: raw
attributes:
  check_mode:
    support: partial
    details: Keeps the index and the lock, in check mode too; both are caches.
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Ask every site
  vclust_offer:
    site: "{{ vclust_site }}"
    request: "{{ vclust_request }}"
    hosts: "{{ inventory_hostname | vclust_site_hosts(groups, hostvars) }}"
  register: choose_offer
  failed_when: false
  ignore_unreachable: true
"""

RETURN = """
offer:
  description:
    - C(present) is the state of the cluster of that name, where the site has one.
    - C(estimate) has the seconds of each phase, and which phases have no past runs to go by.
  type: dict
  returned: success
  sample:
    present: ""
    estimate:
      seconds: {image: 4.1, create: 0.5, install: 3.0, ready: 15.2}
      errors: {image: 0.4, create: 0.1, install: 0.3, ready: 2.1}
      unknown: []
      medians: []
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 3
problems:
  description: On a mistaken request, every mistake.
  type: list
  elements: str
  returned: failure
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, host_options, request_options, run_module, run_phase
from vclust_py.offers import offer
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**request_options(), **host_options(), "locked": {"type": "raw"}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(offer, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
