# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading requests: an adapter to `vclust_py.request`."""

from __future__ import annotations

DOCUMENTATION = """
name: vclust_request
author: vclust contributors
version_added: "0.1"
short_description: A checked request for a virtual cluster
description:
  - Reads a request and checks all that can be checked without a site.
  - All mistakes of a request are reported at once, each with its file, line and key.
  - The file is read on the controller.
options:
  _terms:
    description:
      - The path of a file in INI or YAML form, absolute or relative to the working directory or, where it is
        not there, to the directory of the playbook.
      - Or the request itself, a mapping in the YAML form.
    type: list
    elements: raw
    required: true
requirements:
  - vclust_py on the controller
notes:
  - The result holds password hashes; do not print it.
"""

EXAMPLES = """
- name: Show how many nodes a file asks for
  ansible.builtin.debug:
    msg: "{{ lookup('vclust_request', 'examples/hello-mpi.ini').hardware.number_of_nodes }}"

- name: Show the host names' pattern of a request that an inventory or a survey gives
  vars:
    wanted:
      hardware:
        number_of_nodes: 2
      software:
        name: demo
        packages: [gcc, mpich]
  ansible.builtin.debug:
    msg: "{{ lookup('vclust_request', wanted).software.hostname }}"
"""

RETURN = """
_list:
  description:
    - One mapping for each term, in the canonical YAML form.
    - It has every key that has a value, defaults included; sizes and times are text such as C(512MB) and C(8h).
  type: list
  elements: dict
  contains:
    hardware:
      description: The machines; C(number_of_nodes), C(cpu_arch), C(cpus), C(ram), C(disk) and so on.
      type: dict
      sample:
        number_of_nodes: 2
        cpu_arch: x86
        cpus: 1
        ram: 512MB
        disk: 4GB
        spread: any
        min_nodes: 2
    software:
      description: What runs on them; C(name), C(users), C(hostname), C(network), C(packages) and so on.
      type: dict
      sample:
        name: demo
        users: []
        ssh_keys: []
        hostname: demo-%02d
        network: 192.168.77.0/24
        packages: [gcc, mpich]
        meta_packages: []
        site: any
        install: auto
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from vclust_py import request
from vclust_py.errors import RequestError


def read(term: object, playbook_dir: str | None) -> request.Request:
    """The request that `term`, a path or a mapping, stands for.  Raises RequestError."""
    if isinstance(term, Mapping):
        return request.from_mapping(term, "vclust_request")
    path = Path(str(term)).expanduser()
    beside_playbook = Path(playbook_dir or ".") / path
    return request.read(beside_playbook if not path.exists() and beside_playbook.exists() else path)


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(
        self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        playbook_dir = (variables or {}).get("playbook_dir")
        try:
            return [request.to_mapping(read(term, playbook_dir)) for term in terms]
        except RequestError as error:
            raise AnsibleLookupError(str(error)) from error
