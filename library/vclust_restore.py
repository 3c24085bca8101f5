#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A site's state from a backup: an adapter to `vclust_py.site.backup`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_restore
author: vclust contributors
version_added: "0.1"
short_description: Make the state in a backup that of the site
description:
  - Checks every part of a file that M(vclust_backup) has written, and puts it in its place; the database last.
  - A database of an earlier version of vclust is brought forward. A newer one is refused.
  - Refuses a site that has had clusters, or has another authority, unless O(replace).
extends_documentation_fragment:
  - vclust
options:
  path:
    description: The backup, on the site manager.
    type: path
    required: true
  replace:
    description:
      - Put the backup in the place of a state that is there, after a backup of that beside it.
      - Clusters that the backup does not have are forgotten; what they are made of stays.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Take over from a site manager that was lost
  vclust_restore:
    site: "{{ vclust_site }}"
    path: /srv/backup/vclust.tar.gz
"""

RETURN = """
clusters:
  description: Names of the live clusters in the backup.
  type: list
  elements: str
  returned: success
created:
  description: When the backup was written, Unix time.
  type: float
  returned: success
earlier:
  description: The file with the state that was there before; empty where there was none.
  type: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
"""

import logging
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.change import Change
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site import backup, clusters
from vclust_py.site.session import Session

_log = logging.getLogger("vclust_py.site.backup")


def argument_spec() -> dict[str, Any]:
    return {
        **site_options(),
        "path": {"type": "path", "required": True},
        "replace": {"type": "bool", "default": False},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    clusters.require_access_to_all(session.store)
    restored = backup.restore(session.store, Path(params["path"]), replace=params["replace"], check=check)
    if restored.unknown:
        _log.warning(
            "the backup does not have %s: the site does not know their nodes any more",
            ", ".join(restored.unknown),
        )
    return {
        "clusters": list(restored.header.clusters),
        "created": restored.header.created,
        "earlier": restored.earlier,
        **changed(Change(dict(restored.before), {**restored.after, "created": restored.header.created})),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
