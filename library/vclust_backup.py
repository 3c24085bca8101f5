#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A site's state in one file: an adapter to `vclust_py.site.backup`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_backup
author: vclust contributors
version_added: "0.1"
short_description: Write the state of a site to one file
description:
  - Writes what a new site manager needs to go on with the running clusters. That is the database, the authority and
    keys of the site, package locks, and the keys and seeds of each cluster.
  - The site may be in use meanwhile. The database is of one moment.
  - The file is for root only, as it holds keys and password hashes.
  - Images and packages are not in it, nor are the disks of nodes.
extends_documentation_fragment:
  - vclust
options:
  path:
    description: The file to write, on the site manager. One that is there is replaced.
    type: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Back up the site
  vclust_backup:
    site: "{{ vclust_site }}"
    path: /srv/backup/vclust.tar.gz
"""

RETURN = """
clusters:
  description: Names of the live clusters in it.
  type: list
  elements: str
  returned: success
bytes:
  description: The size of the file; 0 in check mode.
  type: int
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.change import Change
from vclust_py.module import Outcome, changed, run_module, site_options
from vclust_py.site import backup, clusters
from vclust_py.site.session import Session
from vclust_py.site.store import audit


def argument_spec() -> dict[str, Any]:
    return {**site_options(), "path": {"type": "path", "required": True}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    path = Path(params["path"])
    clusters.require_access_to_all(session.store)  # their keys are in it
    names = clusters.names(session.store) if check else list(backup.write(session.store, path).clusters)
    size = 0 if check else path.stat().st_size
    if not check:
        audit(session.store, "backup", "", path.name)
    return {"clusters": names, "bytes": size, **changed(Change({}, {"path": str(path), "clusters": names}))}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
