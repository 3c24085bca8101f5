# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module of this name, in Ansible's own process where that will do: an adapter to `vclust_py.action`."""

from vclust_py.action import action

ActionModule = action(__file__)
