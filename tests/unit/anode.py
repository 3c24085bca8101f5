"""A node, where a test needs any."""

from vclust_py.site.clusters import Node
from vclust_py.site.states import NodeState

NODE = Node(
    position=0,
    name="n1",
    host="h",
    uri="qemu:///system",
    address="192.168.77.1",
    mac="52:54:00:00:00:01",
    uuid="u",
    cpus=1,
    memory=2**29,
    disk=2**32,
    state=NodeState.STARTED,
)
