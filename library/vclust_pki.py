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
    stand in for the other. What is there and good stays. A certificate with less than 60 days left, of another
    authority or with other names is issued again.
  - With O(host.state=absent), takes the host out of the site. Its certificates are revoked and what the site has
    noted of it is forgotten, whether or not the machine is still there. Refused while nodes of live clusters are there.
  - With O(rotate), begins to replace all keys, the authority's among them. Until all hosts have followed, each machine
    trusts the old authority beside the new one. O(hosts) goes on with it.
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
  rotate:
    description: Begin to replace all keys, unless that is under way.
    type: bool
    default: false
  host:
    description: A host, as it shows itself.
    type: dict
    suboptions:
      name:
        description: Inventory name.
        type: str
        required: true
      state:
        description:
          - V(present) admits the host.
          - V(confirmed) notes that it has all that it was given, which O(hosts) waits for.
          - V(absent) takes it out of the site.
        type: str
        choices: [present, confirmed, absent]
        default: present
      address:
        description: Name or address in its libvirt URI; needed to admit it.
        type: str
        default: ''
      csr:
        description: The signing request for libvirt, PEM; empty where it has no key yet.
        type: str
        default: ''
      certificate:
        description: The certificate that libvirt has, PEM; empty where it has none.
        type: str
        default: ''
      hop_csr:
        description: The signing request for its hop of the chain, PEM; empty where it has no key yet.
        type: str
        default: ''
      hop_certificate:
        description: The certificate that its hop has, PEM; empty where it has none.
        type: str
        default: ''
  hosts:
    description:
      - Names of all hosts of the site that are other machines. Go on with replacing keys as far as they allow.
      - Without it, that waits.
    type: list
    elements: str
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
  delegate_to: localhost

- name: Take one out that is gone for good
  vclust_pki:
    site: "{{ vclust_site }}"
    host: {name: xen2, state: absent}
  delegate_to: localhost

- name: Go on with replacing keys
  vclust_pki:
    site: "{{ vclust_site }}"
    hosts: [xen1, xen3]
"""

RETURN = """
ca:
  description: Certificates of the authorities that hosts shall trust, PEM; two while keys are being replaced.
  type: str
  returned: when a host is admitted, or none is named
client:
  description: The site manager's subject, as libvirt compares it.
  type: str
  returned: when a host is admitted, or none is named
  sample: CN=vclust site manager
certificate:
  description: The certificate of the host's libvirt, PEM; empty where it must make its key first.
  type: str
  returned: when a host is admitted, or none is named
hop_certificate:
  description: The certificate of the host's hop, PEM; empty where it must make its key first.
  type: str
  returned: when a host is admitted, or none is named
rekey:
  description: Which keys the host must make, or make again, before it gets certificates for them.
  type: list
  elements: str
  returned: when a host is admitted, or none is named
  sample: [libvirt, hop]
rotation:
  description:
    - V(both) while hosts come to trust a new authority beside the old one, V(new) while they forget the old one.
    - Empty when no keys are being replaced.
  type: str
  returned: when no host is named, or one is admitted
waiting:
  description: Hosts that replacing keys waits for.
  type: list
  elements: str
  returned: with O(hosts)
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py import hosts, pki
from vclust_py.change import Change
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site.session import Session
from vclust_py.site.store import audit


def argument_spec() -> dict[str, Any]:
    host = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "confirmed", "absent"], "default": "present"},
        "address": {"type": "str", "default": ""},
        "csr": {"type": "str", "default": ""},
        "certificate": {"type": "str", "default": ""},
        "hop_csr": {"type": "str", "default": ""},
        "hop_certificate": {"type": "str", "default": ""},
    }
    return {
        **site_options(),
        "rotate": {"type": "bool", "default": False},
        "host": {"type": "dict", "options": host},
        "hosts": {"type": "list", "elements": "str"},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    site, host = session.site, params["host"]
    if params["hosts"] is not None:
        change, step, waiting = pki.proceed(site, params["hosts"], check=check)
        _note(session, change, "replace keys", step or "done", check)
        return {**changed(change), "rotation": step, "waiting": list(waiting)}
    shown = None if host is None else pki.Machine(**{name: host[name] for name in host if name != "state"})
    if shown is not None and host["state"] == "confirmed":
        return changed(pki.confirm(site, shown.name, check=check))
    if shown is not None and host["state"] == "absent":
        return changed(hosts.remove(session, shown, check=check))
    change, trust = pki.roll_out(site, shown, rotate=params["rotate"], check=check)
    action = "admit host" if shown is not None else "replace keys" if params["rotate"] else "make keys"
    _note(session, change, action, "" if shown is None else shown.name, check)
    return {**changed(change), **dataclasses.asdict(trust)}


def _note(session: Session, change: Change, action: str, detail: str, check: bool) -> None:
    if change.changed and not check:
        audit(session.store, action, "", detail)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
