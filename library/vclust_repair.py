#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a site manager has for its running clusters, made again: an adapter to `vclust_py.repair`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_repair
author: vclust contributors
version_added: "0.1"
short_description: Make the site manager's part of running clusters again
description:
  - Makes the networks of clusters on the site manager again, by which people reach the nodes. They go with a restart of
    the machine, and a new site manager has none.
  - Takes away networks on the site manager that the site has made, and no cluster has.
  - Notes as failed the nodes that do not run any more.
  - Warns of hosts that do not answer, and of clusters that somebody works on; these stay as they are.
extends_documentation_fragment:
  - vclust
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Bring back the way to the nodes
  vclust_repair:
    site: "{{ vclust_site }}"
"""

RETURN = """
repaired:
  description: Names of the clusters with something to repair or to note.
  type: list
  elements: str
  returned: success
removed:
  description: Networks of no cluster that were taken away.
  type: list
  elements: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

import logging
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py import repair
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site.session import Session
from vclust_py.site.store import audit

_log = logging.getLogger("vclust_py.repair")


def argument_spec() -> dict[str, Any]:
    return site_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    result = repair.run(session, check=check)
    for warning in result.warnings:
        _log.warning(warning)
    if result.change.changed and not check:
        audit(session.store, "repair", "", ", ".join([*result.facts["repaired"], *result.facts["removed"]]))
    return {**changed(result.change), **result.facts}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
