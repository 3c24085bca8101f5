"""What a node is told, what it says, and how a cluster of nodes is tried.

console       what nodes report on their consoles, and following it until all have come as far as they should
fat           a small FAT file system in memory: what both disks are
tar           an archive of files with owners and modes, for busybox
volume        the step that makes the cluster's volume a file system, and has it mounted
trust         the cluster's authority: ssh keys and certificates of nodes and users
cluster_disk  the disk that all nodes of a cluster share: names, users, trust, packages, secrets, steps
template      the two disks of a node that others start from as clones
agent         what waits in a node that runs for what its host tells it
update        a later generation of that disk brought to a node that runs
proof         the scripts that try a cluster from its first node, and what their output says
prover        the proof by these, from the login on, beside the reports of the nodes

A node's own disk is `vclust_py.seed`; the programs that run in nodes are in `vclust_py/image/guest`.
"""
