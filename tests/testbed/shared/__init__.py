"""What several kinds of testbed have in common.

`places` (folders, names), `debian` (roots made by mmdebstrap and kept by content), `ssh` (the way in), `network`
(iproute2 and namespaces), `inventory` (how vclust comes to know the hosts), `features` (what this machine cannot do).
"""
