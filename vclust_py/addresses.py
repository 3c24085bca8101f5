"""Hardware addresses of nodes and routers."""

from ipaddress import IPv4Address


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC that holds the address, so it is unique in the cluster's segment."""
    return "52:54:" + ":".join(f"{byte:02x}" for byte in address.packed)
