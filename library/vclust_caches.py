#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a site knows of its VD caches: an adapter to `vclust_py.cache.describe`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_caches
author: vclust contributors
version_added: "0.1"
short_description: Tell what VD caches a site has
description:
  - Reads which caches a site has, how the last recomputation of them went, and what past creations used.
extends_documentation_fragment:
  - vclust
options:
  digest:
    description:
      - The start of the digest of the caches to tell of, with the packages in them.
      - Empty for all, without their packages.
    type: str
    default: ""
  history:
    description: Tell also of the past requests that the next caches are chosen by, and what is in each cache.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Read all caches
  vclust_caches:
    site: "{{ vclust_site }}"
  register: caches

- name: Read what is in one
  vclust_caches:
    digest: 3f9a
"""

RETURN = """
caches:
  description: The caches.
  type: list
  elements: dict
  returned: success
  contains:
    digest:
      description: Digest of the cache.
      type: str
    packages:
      description: How many packages it holds, those of the caches it stands on included.
      type: int
    holds:
      description: These packages, each C(name=version); with O(digest) or O(history).
      type: list
      elements: str
    own:
      description: Those that no cache under it holds; with O(digest) or O(history).
      type: list
      elements: str
    size:
      description: Installed bytes of all its packages.
      type: int
    bytes:
      description: Bytes of its own file.
      type: int
    parent:
      description: Digest of the cache it stands on; empty for the base image.
      type: str
    clusters:
      description: Clusters that stand on it.
      type: list
      elements: str
status:
  description: >-
    The last recomputation, whether the next is due, the settings it goes by, and images of a newer version of vclust,
    which are kept and not used (C(newer)).
  type: dict
  returned: success
usage:
  description: What past creations started from, in their order.
  type: list
  elements: dict
  returned: success
history:
  description: The past requests at today's versions, C(packages) and C(requests) as in a trace file.
  type: dict
  returned: with O(history)
site_manager:
  description:
    - Where the state is (C(root)), and on which running machine (C(boot_id), C(mounts)).
    - With the C(settings) of the site, and its name (C(site)) as the inventory has it.
  type: dict
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.cache.describe import describe
from vclust_py.module import Outcome, run_module, site_manager, site_options
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **site_options(),
        "digest": {"type": "str", "default": ""},
        "history": {"type": "bool", "default": False},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    told = describe(session, params["digest"], history=params["history"])
    return {"changed": False, **told, **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
