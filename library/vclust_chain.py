#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files to hosts: an adapter to `vclust_py.chain.push`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_chain
author: vclust contributors
version_added: "0.1"
short_description: Send files to many hosts at once
description:
  - Sends files of the site manager along a chain of hosts, in nearly the time of one, to the folder of their images.
  - What a host has already is checked and not sent again; an interrupted transfer is taken up where it was.
  - A file is there under its name only whole and checked. A host that fails holds up no other; the module fails in
    the end, and names it with the reason.
  - Hosts that could not send to each other, though each has the files in the end, are named in a warning.
  - In check mode, the difference names which hosts lack what.
extends_documentation_fragment:
  - vclust
  - vclust.hosts
options:
  files:
    description: The files, on the site manager.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      name:
        description: Its name on the hosts; empty for the one it has.
        type: str
        default: ""
      sha256:
        description: What it must be; empty for whatever it is.
        type: str
        default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Send an image to all hosts of the site
  vclust_chain:
    site: "{{ vclust_site }}"
    files:
      - path: /srv/images/debian.qcow2
    hosts: "{{ inventory_hostname | vclust_site_hosts(groups, hostvars) }}"

- name: See which hosts lack it
  vclust_chain:
    files:
      - path: /srv/images/debian.qcow2
        name: base.qcow2
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    hosts:
      - name: xen1
        uri: xen+tls://192.0.2.11/system
  check_mode: true
"""

RETURN = """
lacks:
  description: By host, the names of the files that it lacked.
  type: dict
  returned: success
  sample: {xen1: [debian.qcow2]}
sent:
  description:
    - By host, the bytes of the files that were sent to it, the bytes that came over the network for them (less where
      they are compressed, or were partly there), and the seconds from the start until it had the last file.
    - Nothing in check mode.
  type: dict
  returned: success
  sample: {xen1: {bytes: 536870912, received: 536870912, seconds: 4.6}}
site_manager:
  description: Where this ran, so that its progress can be read.
  type: dict
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

import logging
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.chain import File
from vclust_py.chain.push import push
from vclust_py.chain.report import warnings
from vclust_py.hypervisor import Host
from vclust_py.module import Outcome, changed, host_options, run_module, site_manager, site_options
from vclust_py.site.session import Session

_log = logging.getLogger("vclust_py.chain")


def argument_spec() -> dict[str, Any]:
    file = {
        "path": {"type": "path", "required": True},
        "name": {"type": "str", "default": ""},
        "sha256": {"type": "str", "default": ""},
    }
    files = {"type": "list", "elements": "dict", "required": True, "options": file}
    return {**site_options(), **host_options(), "files": files}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    files = [File(Path(one["path"]), one["name"], one["sha256"].lower() or None) for one in params["files"]]
    hosts = [Host.from_mapping(host) for host in params["hosts"]]
    change, outcomes = push(session.site, files, hosts, check)
    for warning in warnings(outcomes):
        _log.warning("%s", warning)
    sent = {
        outcome.host: {"bytes": outcome.bytes, "received": outcome.received, "seconds": outcome.seconds}
        for outcome in outcomes
    }
    return {**changed(change), **change.before, "sent": sent, **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
