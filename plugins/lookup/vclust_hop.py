# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program of the chain's hops: an adapter to `vclust_py.chain.program`."""

from __future__ import annotations

DOCUMENTATION = """
name: vclust_hop
author: vclust contributors
version_added: "0.1"
short_description: The program of the chain's hops, for a host
description:
  - Makes one file of the package C(vclust_hop) of the controller, a zipapp. The same source makes the same bytes.
requirements:
  - vclust_py and vclust_hop on the controller
"""

EXAMPLES = """
- name: Put the program on a host
  vclust_files:
    files:
      - path: /usr/local/lib/vclust/hop.pyz
        content: "{{ lookup('vclust_hop') }}"
        base64: true
        mode: "0644"
"""

RETURN = """
_list:
  description: The file's bytes, in base64.
  type: list
  elements: str
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from ansible.plugins.lookup import LookupBase

from vclust_py.chain.program import zipapp


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        return [b64encode(zipapp()).decode()]
