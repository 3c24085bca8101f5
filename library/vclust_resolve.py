#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `resolve`: an adapter to `vclust_py.phases.resolve`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_resolve
author: vclust contributors
version_added: "0.1"
short_description: Find the packages of a virtual cluster
description:
  - Finds every package that a request needs beyond the base image, with version, size and digest.
  - Does so by apt, from the index of the site.
  - The result, the lock of the cluster, is kept by the site under its digest.
extends_documentation_fragment:
  - vclust
  - vclust.request
options:
  locked:
    description:
      - A lock to use as it is, instead of asking the index.
      - It must have been made for the same packages, suite, architecture and kernel.
      - Taken from it are names, versions and digests only; the package index or the package store says the rest.
      - A mapping, or its text (JSON).
    type: raw
attributes:
  check_mode:
    support: partial
    details: Keeps the index and the lock in check mode too, both are caches; the phase C(place) reads them.
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Find the packages
  vclust_resolve:
    site: "{{ vclust_site }}"
    request: "{{ vclust_request }}"
  register: resolved

- name: Take the packages of an earlier cluster
  vclust_resolve:
    request: "{{ vclust_request }}"
    locked: "{{ lookup('file', 'bio1.lock.json') }}"
"""

RETURN = """
lock:
  description: Digest of the lock.
  type: str
  returned: success
packages:
  description: The packages beyond the base image, each C(name=version).
  type: list
  elements: str
  returned: success
  sample: [gcc=4:12.2.0-3]
caches:
  description: The VD caches of the site that stand on that base image, for the lookup plugin P(vclust_cache#lookup).
  type: list
  elements: dict
  returned: success
  contains:
    digest:
      description: Digest of the cache.
      type: str
    size:
      description: Installed bytes of all its packages.
      type: int
    packages:
      description: How many packages it holds.
      type: int
    shared:
      description: A hexadecimal number; its bit n says that the cache holds the n-th of RV(packages).
      type: str
    refusal:
      description: Why it cannot be used; empty where it holds nothing else.
      type: str
bytes:
  description: The size of these packages, as downloaded.
  type: int
  returned: success
  sample: 74000000
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
problems:
  description: On a mistaken request, every mistake.
  type: list
  elements: str
  returned: failure
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, request_options, run_module, run_phase
from vclust_py.phases import resolve
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**request_options(), "locked": {"type": "raw"}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(resolve.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
