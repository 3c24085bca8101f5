#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a site has and did, for its report or for metrics: an adapter to `vclust_py.report`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_report
author: vclust contributors
version_added: "0.1"
short_description: Tell what a site has and did
description:
  - Reads the state of the site, for its report or for metrics; no host is asked.
  - C(vclust report) and C(vclust metrics) make a page and OpenMetrics text of it.
extends_documentation_fragment:
  - vclust
options:
  metrics:
    description: Tell the figures that metrics are made of, in place of what a report is made of.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Read what the site has
  vclust_report:
    site: "{{ vclust_site }}"
  register: report

- name: Read its figures
  vclust_report:
    site: "{{ vclust_site }}"
    metrics: true
  register: report
"""

RETURN = """
overview:
  description:
    - Without O(metrics). Hosts as they were last seen, clusters with their owners, VD caches, past requests, space.
    - What past requests have in common is left out where the package index cannot be had; C(history_error) says why.
  type: dict
  returned: success
figures:
  description: With O(metrics). The same as counts, and seconds and failures of phases.
  type: dict
  returned: success
site_manager:
  description:
    - Where the state is (C(root)), and on which running machine (C(boot_id), C(mounts)).
    - With the C(settings) of the site, and its name (C(site)) as the inventory has it.
  type: dict
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, run_module, site_manager, site_options
from vclust_py.report import read
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**site_options(), "metrics": {"type": "bool", "default": False}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return {"changed": False, **read(session, metrics=params["metrics"]), **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
