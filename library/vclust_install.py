#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `install`: an adapter to `vclust_py.phases.install`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_install
author: vclust contributors
version_added: "0.1"
short_description: Wait until a virtual cluster is installed
description:
  - Waits until every node of a started cluster has taken its identity and its packages.
  - Fails with the name of the node and what its installer said.
extends_documentation_fragment:
  - vclust
  - vclust.name
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Wait until the nodes are installed
  vclust_install:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: The same, with the site's state elsewhere
  vclust_install:
    site:
      root: /srv/vclust
    name: hello-mpi
"""

RETURN = """
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.phases import install
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return cluster_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(install.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
