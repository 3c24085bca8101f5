# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Choosing VD caches: an adapter to `vclust_py.cache.lookup`."""

from __future__ import annotations

DOCUMENTATION = """
name: vclust_cache
author: vclust contributors
version_added: "0.1"
short_description: The VD cache that a virtual cluster starts from
description:
  - Chooses, of the caches a site has, the largest that holds nothing the packages of the cluster do not.
  - A package counts as the same at the same version only.
  - With C(-v) it says of every other cache why it was refused.
options:
  _terms:
    description: The packages of a cluster beyond the base image, each C(name=version); one list.
    type: list
    elements: list
    required: true
  caches:
    description: The caches there are, as returned by M(vclust_resolve) with these packages.
    type: list
    elements: dict
    required: true
requirements:
  - vclust_py on the controller
"""

EXAMPLES = """
- name: Find the packages and the caches
  vclust_resolve:
    request: "{{ vclust_request }}"
  register: resolved

- name: Show which cache the cluster starts from
  ansible.builtin.debug:
    msg: "{{ lookup('vclust_cache', resolved.packages, caches=resolved.caches) | default('none', true) }}"
"""

RETURN = """
_list:
  description: For each term the digest of the chosen cache, empty where none will do.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

from vclust_py.cache import lookup
from vclust_py.cache.lookup import Candidate

display = Display()


def choose(caches: list[Candidate], asked: int) -> str:
    """The chosen cache's digest, or nothing."""
    chosen = lookup.choose(caches)
    for cache, reason in lookup.reasons(caches, chosen, asked) if display.verbosity else ():
        display.v(f"cache {cache.digest[:12]} {'chosen' if cache is chosen else 'refused'}: {reason}")
    return chosen.digest if chosen else ""


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        (closure,) = terms
        if not isinstance(closure, list):
            raise AnsibleLookupError(f"got '{closure}', expected a list of packages, each name=version")
        try:
            caches = [Candidate.from_dict(cache, len(closure)) for cache in self.get_option("caches")]
        except (KeyError, TypeError, ValueError) as error:
            raise AnsibleLookupError(
                f"caches: got {error}, expected caches as vclust_resolve returns them with these packages"
            ) from error
        return [choose(caches, len(closure))]
