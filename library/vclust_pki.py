#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Trust between a site manager and its hosts: an adapter to `vclust_py.pki`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_pki
author: vclust contributors
version_added: "0.1"
short_description: Trust between a site manager and its hosts
description:
  - Makes the site's certificate authority and the site manager's client certificate.
  - With O(host), also issues that host's certificates, one for libvirt and one for its hop of the chain. Neither can
    stand in for the other.
  - What is there and good stays. A certificate with less than 60 days left, of another authority or with other
    names is issued again.
  - Private keys never leave the machine they are made on, and are in no result.
extends_documentation_fragment:
  - vclust
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  host:
    description: A host to admit, as it shows itself.
    type: dict
    suboptions:
      name:
        description: Inventory name.
        type: str
        required: true
      address:
        description: Name or address in its libvirt URI.
        type: str
        required: true
      csr:
        description: The signing request for libvirt, PEM; empty where it has no key yet (check mode).
        type: str
        default: ''
      certificate:
        description: The certificate that libvirt has, PEM; empty where it has none.
        type: str
        default: ''
      hop_csr:
        description: The signing request for its hop of the chain, PEM; empty where it has no key yet (check mode).
        type: str
        default: ''
      hop_certificate:
        description: The certificate that the hop has, PEM; empty where it has none.
        type: str
        default: ''
  machines:
    description: Names or addresses of the site's hosts that are other machines.
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
- name: Make what the site trusts
  vclust_pki:
    site: "{{ vclust_site }}"

- name: Admit a host
  vclust_pki:
    site: "{{ vclust_site }}"
    host:
      name: xen1
      address: 192.0.2.11
      csr: "{{ csr.stdout }}"
      hop_csr: "{{ hop_csr.stdout }}"
    machines: [192.0.2.11, 192.0.2.12]
  delegate_to: localhost
"""

RETURN = """
ca:
  description: Certificate of the site's authority, PEM.
  type: str
  returned: success
client:
  description: The site manager's subject, as libvirt compares it.
  type: str
  returned: success
  sample: CN=vclust site manager
certificate:
  description: The certificate of the host's libvirt, PEM.
  type: str
  returned: success
hop_certificate:
  description: The certificate of the host's hop, PEM.
  type: str
  returned: success
addresses:
  description: IPv4 addresses of O(machines), and the site manager's own towards them.
  type: list
  elements: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py import network, pki
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    host = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "csr": {"type": "str", "default": ""},
        "certificate": {"type": "str", "default": ""},
        "hop_csr": {"type": "str", "default": ""},
        "hop_certificate": {"type": "str", "default": ""},
    }
    return {
        **site_options(),
        "host": {"type": "dict", "options": host},
        "machines": {"type": "list", "elements": "str", "default": []},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    machine = None if params["host"] is None else pki.Machine(**params["host"])
    change, trust = pki.roll_out(session.site, machine, check=check)
    return {
        **changed(change),
        **dataclasses.asdict(trust),
        "addresses": sorted(map(str, network.addresses(params["machines"]).values())),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
