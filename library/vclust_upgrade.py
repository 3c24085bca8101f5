#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Today's versions for a running cluster: an adapter to `vclust_py.life.upgrade`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_upgrade
author: vclust contributors
version_added: "0.1"
short_description: Give a virtual cluster today's versions of its packages
description:
  - Looks which later versions the archives of the site have, fetches them, and writes them down as the next generation
    of what the cluster should be. M(vclust_teach) brings them to the nodes.
  - No package goes. The kernel stays, as nodes boot the one of their base image.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  security:
    description: Only packages of which the archives have a later version for security, and what these need.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Today's versions
  vclust_upgrade:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: See which security updates there are
  vclust_upgrade:
    name: hello-mpi
    security: true
  check_mode: true
  diff: true
"""

RETURN = """
packages:
  description: Packages that nodes are to install, with versions.
  type: list
  elements: str
  returned: success
kept:
  description: Later versions that nodes do not get, as they could only have them without another package.
  type: list
  elements: str
  returned: success
kernel:
  description: The later kernel of the archives, with its version, which no restart brings; empty where there is none.
  type: str
  returned: success
absent:
  description: Nodes that are not ready now. They get the packages when they are again.
  type: list
  elements: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.life import upgrade
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**cluster_options(), "security": {"type": "bool", "default": False}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(upgrade.phase(security=params["security"]), session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
