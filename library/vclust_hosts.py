#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the hosts of a site are: an adapter to `vclust_py.hosts`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_hosts
author: vclust contributors
version_added: "0.1"
short_description: How the hosts of a site are
description:
  - Asks all hosts side by side, by libvirt and by the chain, and says of each what it has, what runs there, which
    versions it has, when its certificates end, what is wrong and what to do about it.
  - What they say is written down for later, and nothing else is changed. A host that does not answer is no failure, but
    one of its C(problems).
extends_documentation_fragment:
  - vclust
  - vclust.hosts
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: See how the hosts are
  vclust_hosts:
    site: "{{ vclust_site }}"
    hosts: "{{ inventory_hostname | vclust_site_hosts(groups, hostvars) }}"
  register: status
"""

RETURN = """
hosts:
  description:
    - Of each host C(name), C(state), C(driver), C(rack), C(reachable); C(facts) (what it has, as of C(seen), which is
      C(age) seconds ago); C(nodes) of each live cluster there, in words C(there), and what they were given (C(used));
      C(versions), C(certificates) (their ends), C(problems).
    - A host that is not asked for and has nodes is in it as well, with C(state=absent).
  type: list
  elements: dict
  returned: success
leftovers:
  description:
    - Networks on the site manager that belong to no cluster. Of each C(segment), its name; C(parts), what there is of
      it; C(nodes), ports of nodes on it; C(root) of the site that has made it, and C(since) when, where that is known;
      C(ours), whether M(vclust_repair) takes it away; C(told), all that in words.
  type: list
  elements: dict
  returned: success
authority:
  description: Ends of the certificates of the site's authority and of its site manager; empty where there are none.
  type: dict
  returned: success
site_manager:
  description:
    - Where the state is (C(root)), and on which running machine (C(boot_id), C(mounts)).
    - With the C(settings) of the site, and its name (C(site)) as the inventory has it.
  type: dict
  returned: success
"""

import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py import hosts, pki
from vclust_py.hypervisor import Host
from vclust_py.module import Outcome, host_options, run_module, site_manager, site_options
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**site_options(), **host_options()}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    found = hosts.status(session, [Host.from_mapping(host) for host in params["hosts"]], check=check)
    now = time.time()
    return {
        "changed": False,
        "hosts": [
            {
                **asdict(one),
                "age": None if one.seen is None else max(0.0, now - one.seen),
                "there": hosts.listed(one.nodes),
            }
            for one in found
        ],
        "leftovers": [
            {**asdict(left), "told": left.told} for left in session.networks.leftovers(session.store)
        ],
        "authority": pki.ends(session.site).get("", {}),
        **site_manager(session.site),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
