#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `cache`: an adapter to `vclust_py.phases.cache`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_cache
author: vclust contributors
version_added: "0.1"
short_description: Reserve the VD cache that a virtual cluster starts from
description:
  - Writes down that the cluster starts from a cache, so that nobody removes it meanwhile.
  - Takes the best one that is there if that cache is gone meanwhile, or none is named.
  - A cluster that is placed keeps what it has.
extends_documentation_fragment:
  - vclust
  - vclust.request
options:
  lock:
    description: Digest of the lock, as returned by M(vclust_resolve).
    type: str
    required: true
  cache:
    description: Digest of the cache, as chosen by the lookup plugin P(vclust_cache#lookup).
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
- name: Reserve the largest cache that fits
  vclust_cache:
    site: "{{ vclust_site }}"
    request: "{{ vclust_request }}"
    lock: "{{ resolved.lock }}"
    cache: "{{ lookup('vclust_cache', resolved.packages, caches=resolved.caches) }}"
  register: reserved

- name: Let the site choose, and see why
  vclust_cache:
    request: "{{ vclust_request }}"
    lock: "{{ resolved.lock }}"
  check_mode: true
"""

RETURN = """
cache:
  description: The reserved cache and what it saves; empty when the cluster starts from the base image.
  type: dict
  returned: success
  contains:
    digest:
      description: Digest of the cache.
      type: str
    packages:
      description: How many packages it holds.
      type: int
    bytes:
      description: What it saves the cluster, as installed.
      type: int
    of:
      description: What all packages of the cluster take, as installed.
      type: int
    seconds:
      description: What it saves, as estimated from past runs; none where there are none.
      type: float
verdicts:
  description: Every cache that was there, with the reason why it was chosen or refused.
  type: list
  elements: dict
  returned: success
  contains:
    digest:
      description: Digest of the cache.
      type: str
    chosen:
      description: Whether it is the one.
      type: bool
    foreign:
      description: Names of packages in it that the cluster has not.
      type: list
      elements: str
    other_version:
      description: Packages in it, C(name=version), that the cluster has at another version.
      type: list
      elements: str
    saves:
      description: Installed bytes that it would save; 0 where it cannot be used.
      type: int
    reason:
      description: Why it was chosen or refused, for people.
      type: str
requests:
  description: The requests that caches are chosen by.
  type: dict
  returned: success
  contains:
    recorded:
      description: How many there are.
      type: int
    next_choice:
      description: After how many of them caches are chosen next; none where that is only done when asked for.
      type: int
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
from vclust_py.phases import cache
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **request_options(),
        "lock": {"type": "str", "required": True},
        "cache": {"type": "str", "default": ""},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(cache.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
