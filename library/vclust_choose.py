#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choosing the site of a virtual cluster: an adapter to `vclust_py.offers`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_choose
author: vclust contributors
version_added: "0.1"
short_description: Choose the site of a virtual cluster
description:
  - Takes the site that has a cluster of that name already.
  - Else takes, of the sites with space for it, the one that can be ready first by its own estimate.
  - Sites that did not answer are left out, and named in the warnings.
  - Fails when no site takes it, with what each one lacks.
options:
  name:
    description: Name of the virtual cluster.
    type: str
    required: true
  results:
    description: What the sites have answered.
    type: list
    elements: dict
    required: true
    suboptions:
      site:
        description: Name of the site.
        type: str
        required: true
      manager:
        description: Inventory name of its manager.
        type: str
        required: true
      result:
        description:
          - C(offer), C(msg) and C(exit_code) of M(vclust_offer) there, and whether the site has C(answered).
        type: dict
        required: true
attributes:
  check_mode:
    description: Can run in check mode and predict the change without making it.
    support: full
  diff_mode:
    description: Returns the state before and after.
    support: none
  platform:
    description: Runs on the controller.
    platforms: debian
requirements:
  - vclust_py on the controller
"""

EXAMPLES = """
- name: Take the site that can be ready first
  vclust_choose:
    name: hello-mpi
    results: "{{ ansible_play_hosts_all | vclust_offers(groups, hostvars) }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = """
site:
  description: Name of the chosen site.
  type: str
  returned: success
  sample: north
manager:
  description: Inventory name of its manager.
  type: str
  returned: success
  sample: m1
reason:
  description: Why it was chosen.
  type: str
  returned: success
  sample: "ready first by the sites' own estimates: north 24 s, south 31 s"
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 3
"""

import logging
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, run_module
from vclust_py.offers import Offer, choose
from vclust_py.site.session import Session

_log = logging.getLogger("vclust_py.offers")


def argument_spec() -> dict[str, Any]:
    answer = {
        "site": {"type": "str", "required": True},
        "manager": {"type": "str", "required": True},
        "result": {"type": "dict", "required": True},
    }
    return {
        "name": {"type": "str", "required": True},
        "results": {"type": "list", "elements": "dict", "required": True, "options": answer},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    choice = asdict(choose(params["name"], [Offer.from_result(**answer) for answer in params["results"]]))
    for warning in choice.pop("warnings"):
        _log.warning(warning)
    return {"changed": False, **choice}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
