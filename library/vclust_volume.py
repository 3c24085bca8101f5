#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The end of a volume: an adapter to `vclust_py.life.volume`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_volume
author: vclust contributors
version_added: "0.1"
short_description: Remove a volume that outlives clusters
description:
  - Removes the data disk with all that is on it. One that is not there is no error, one that a cluster has is.
  - Volumes are made by clusters whose request has a C(Volume).
extends_documentation_fragment:
  - vclust
options:
  name:
    description: The volume.
    type: str
    required: true
  owner:
    description: Whose it is; default one's own, or the only one of that name.
    type: str
    default: ""
  state:
    description: The state to reach.
    type: str
    choices: [absent]
    default: absent
  forget:
    description: Do so also where its host does not answer. What may still be there is warned of.
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
- name: Remove a volume that nobody needs any more
  vclust_volume:
    site: "{{ vclust_site }}"
    name: data
    state: absent

- name: Remove that of somebody who has left, whose host is gone as well
  vclust_volume:
    name: data
    owner: bob
    forget: true
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

from vclust_py.arguments import checked
from vclust_py.life import volume
from vclust_py.module import Outcome, changed, run_module, site_options, warn
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **site_options(),
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "default": ""},
        "state": {"type": "str", "choices": ["absent"], "default": "absent"},
        "forget": {"type": "bool", "default": False},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    name = checked("name", "volume", params["name"])
    owner = checked("owner", "person", params["owner"]) if params["owner"] else ""
    result = volume.remove(session, name, owner=owner, forget=params["forget"], check=check)
    warn(result)
    return changed(result.change)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
