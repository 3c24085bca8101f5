#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choosing and building VD caches now: an adapter to `vclust_py.cache.rebuild`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_rebuild
author: vclust contributors
version_added: "0.1"
short_description: Choose, build and drop the VD caches of a site
description:
  - Chooses by the policy of the site, from its past requests, which caches to keep.
  - Builds those that are not there, and drops those that are not wanted any more and that no cluster uses.
  - A site does so by itself after every so many requests; this does it now.
  - Fails when another recomputation is at work, and when a cache could not be built.
extends_documentation_fragment:
  - vclust
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Learn from the requests of the day
  vclust_rebuild:
    site: "{{ vclust_site }}"
  register: rebuilt

- name: See what would be built and dropped
  vclust_rebuild:
    site:
      cache_space: 20GB
  check_mode: true
  diff: true
"""

RETURN = """
policy:
  description: The policy that chose.
  type: str
  returned: success
requests:
  description: How many past requests it learnt from.
  type: int
  returned: success
chosen:
  description: How many caches it chose.
  type: int
  returned: success
built:
  description: The caches that were built, each in a few words.
  type: list
  elements: str
  returned: success
removed:
  description: What was taken away, a line each; in check mode the caches that would no longer be chosen.
  type: list
  elements: str
  returned: success
stored_bytes:
  description: Bytes that the caches take now.
  type: int
  returned: success
space:
  description: Bytes that they may take.
  type: int
  returned: success
seconds:
  description: How long it took.
  type: float
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.cache import describe
from vclust_py.cache import rebuild as recomputation
from vclust_py.errors import VclustError
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site.session import Session
from vclust_py.site.store import audit


def argument_spec() -> dict[str, Any]:
    return site_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    rebuilt = recomputation.rebuild(session, lambda message, done, total: None, check=check)
    if rebuilt.change.changed and not check:
        audit(
            session.store, "rebuild caches", "", f"{len(rebuilt.built)} built, {len(rebuilt.removed)} dropped"
        )
    if rebuilt.failed:
        raise VclustError(describe.failures(rebuilt))
    return {
        "policy": rebuilt.policy,
        "requests": rebuilt.requests,
        "chosen": rebuilt.chosen,
        "built": rebuilt.built,
        "removed": rebuilt.removed,
        "stored_bytes": rebuilt.stored_bytes,
        "space": rebuilt.space,
        "seconds": rebuilt.seconds,
        **changed(rebuilt.change),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
