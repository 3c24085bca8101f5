#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who has done what at a site: an adapter to `vclust_py.site.store.audited`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_audit
author: vclust contributors
version_added: "0.1"
short_description: Tell who has done what at a site
description:
  - Reads who has created, destroyed and changed what, and when.
  - Who is no administrator of the site sees what they have done themselves.
extends_documentation_fragment:
  - vclust
options:
  user:
    description: Only what this user has done; empty for all.
    type: str
    default: ""
  since:
    description: Only from this time on, in seconds since 1970.
    type: float
    default: 0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Read all of it
  vclust_audit:
    site: "{{ vclust_site }}"
  register: audit

- name: Read what one user has done this year
  vclust_audit:
    user: alice
    since: 1767225600
"""

RETURN = """
audit:
  description: What was done, oldest first.
  type: list
  elements: dict
  returned: success
  contains:
    time:
      description: When, in seconds since 1970.
      type: float
    who:
      description: The user.
      type: str
    via:
      description: The account that has acted for the user, where it is another.
      type: str
    action:
      description: What was done, such as C(create).
      type: str
      sample: create
    cluster:
      description: The cluster it was done to; empty for what is the site's.
      type: str
    detail:
      description: More about it, such as a host or a digest.
      type: str
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
from vclust_py.site.session import Session
from vclust_py.site.store import audited


def argument_spec() -> dict[str, Any]:
    return {
        **site_options(),
        "user": {"type": "str", "default": ""},
        "since": {"type": "float", "default": 0},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    found = audited(session.store, params["user"], params["since"])
    return {"changed": False, "audit": found, **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
