# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation that the modules share."""


class ModuleDocFragment:
    """`vclust`: what every module has; `vclust.request`: the request; `.name`, `.hosts`: what they say."""

    DOCUMENTATION = """
options:
  site:
    description: Settings of the site, see C(docs/operations.md); all have defaults.
    type: dict
    default: {}
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
"""

    REQUEST = """
options:
  request:
    description:
      - What is asked for, as read by the lookup plugin P(vclust_request#lookup).
      - Values are checked as those of a request file are; all mistakes are reported at once.
    type: dict
    required: true
    suboptions:
      hardware:
        description: The machines.
        type: dict
        suboptions:
          number_of_nodes:
            description: How many nodes.
            type: raw
          cpu_arch:
            description: C(x86) or C(arm64).
            type: raw
          cpu_speed:
            description: The least clock speed of a host, such as C(3GHz).
            type: raw
          cpus:
            description: Virtual CPUs of a node.
            type: raw
          ram:
            description: Memory of a node, such as C(2GB).
            type: raw
          disk:
            description: Disk of a node, such as C(8GB).
            type: raw
          spread:
            description: C(any), C(hosts) for at most one node a host, or C(pack) for few hosts.
            type: raw
          min_nodes:
            description: With fewer nodes than this the creation has failed.
            type: raw
      software:
        description: What runs on them.
        type: dict
        suboptions:
          name:
            description: Name of the virtual cluster.
            type: raw
          users:
            description: Users of the nodes.
            type: list
            elements: dict
            suboptions:
              name:
                description: Login name.
                type: raw
              password_hash:
                description: Hash as made by crypt(5).
                type: raw
          ssh_keys:
            description: Public keys of the users.
            type: raw
          hostname:
            description: Pattern of the node names, such as C(vc%02d).
            type: raw
          network:
            description: Network of the nodes, such as C(192.168.10.128/25).
            type: raw
          packages:
            description: Debian packages.
            type: raw
          meta_packages:
            description: Named bundles of packages and configuration.
            type: raw
          suite:
            description: Debian suite, such as C(bookworm).
            type: raw
          kernel:
            description: Debian package of the kernel.
            type: raw
          lease:
            description: How long the cluster may live, such as C(8h).
            type: raw
          site:
            description: Site to use, or C(any).
            type: raw
          install:
            description: C(each) node installs its packages, it is done C(once) for all, or C(auto).
            type: raw
"""
