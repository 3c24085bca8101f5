# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module of this name, in Ansible's own process where that will do: an adapter to `vclust_py.action`."""

from vclust_py.action import action

# Each of the next four phases connects to hosts, too; a controller whose site manager is another machine need not be
# able to.
ActionModule = action(__file__, "vclust_py.network", "vclust_py.hypervisor.qemu", "vclust_py.hypervisor.xen")
