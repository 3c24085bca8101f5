# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation that the modules share."""

from vclust_py.request.ansible import documentation


class ModuleDocFragment:
    """`vclust`: what every module has; `vclust.request`: the request; `.name`, `.hosts`: what they say."""

    DOCUMENTATION = """
options:
  site:
    description: Settings of the site, see C(docs/operations.md); all have defaults.
    type: dict
    default: {}
  who:
    description:
      - Who asks for it, for the audit table of the site, its quotas and what they may do with whose clusters.
      - By default the value of the variable C(awx_user_name), which AWX sets, as it is; without that the user who is
        logged in to the site manager.
      - Only root without sudo, and the C(administrators) of the site, may name somebody else than themselves.
    type: str
    default: ""
attributes:
  check_mode:
    description: Can run in check mode and predict the change without making it.
  diff_mode:
    description: Returns the state before and after.
  platform:
    description: Runs on the site manager.
    platforms: debian
requirements:
  - vclust_py on the site manager
"""

    NAME = """
options:
  name:
    description: Name of the virtual cluster.
    type: str
    required: true
"""

    HOSTS = """
options:
  hosts:
    description: The hypervisor machines of the site.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Inventory name.
        type: str
        required: true
      uri:
        description: How libvirt there is reached from the site manager.
        type: str
        default: qemu:///system
      guest:
        description:
          - With Xen, whether nodes there are C(pv) or C(pvh) guests.
          - Empty for C(pvh) where the host can run them, else C(pv).
        type: str
        default: ""
        choices: ["", pv, pvh]
      rack:
        description: The rack or switch the host is at. Images go from rack to rack once.
        type: str
        default: ""
      state:
        description: C(drain) for a host that takes no new nodes.
        type: str
        default: active
        choices: [active, drain]
      cpu_overcommit:
        description: Virtual CPUs that the host may run for each of its own; C(0) for what the site's setting says.
        type: int
        default: 0
"""

    REQUEST = documentation()
