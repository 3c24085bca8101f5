#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The end of an owner's homes: an adapter to `vclust_py.life.homes`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_home
author: vclust contributors
version_added: "0.1"
short_description: Remove homes that outlive clusters
description:
  - Removes all homes that the site keeps for the clusters of an owner, with all that is in them.
  - Where there are none it is no error, where a cluster has them it is.
  - They are made by clusters whose request has C(Home=site).
extends_documentation_fragment:
  - vclust
options:
  owner:
    description: Whose they are, which is who has asked for the clusters.
    type: str
    required: true
  state:
    description: The state to reach.
    type: str
    choices: [absent]
    default: absent
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Remove the homes of somebody who has left
  vclust_home:
    site: "{{ vclust_site }}"
    owner: bob
    state: absent

- name: See whether that can be done
  vclust_home:
    site: "{{ vclust_site }}"
    owner: bob
  check_mode: true
"""

RETURN = """
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.arguments import checked
from vclust_py.life import homes
from vclust_py.module import Outcome, changed, run_module, site_options, warn
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **site_options(),
        "owner": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["absent"], "default": "absent"},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    result = homes.remove(session, checked("owner", "person", params["owner"]), check=check)
    warn(result)
    return changed(result.change)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
