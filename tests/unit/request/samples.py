"""What the tests of requests share: a hash, a key, a request of every key, and arbitrary requests."""

from ipaddress import IPv4Network

from hypothesis import strategies as st

from vclust_py.request import Hardware, Request, Software, SSHKey, User, Volume

HASH = "$6$throwaway$xqUkwY5nuoBA0dNDf9TICDMqkRqjtGvbsNhk7hY.KpgrEJ8Zvm9FNBb9VAgS.UJwdX.sxHcLDzLPNlccJjrEM0"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

ALL_KEYS = f"""\
[Hardware]
NumberOfNodes: 7
CPUArch: arm64
CPUSpeed: 1.5MHz
CPUs: 3
RAM: 1.5GiB
Disk: 5000000001B
Spread: hosts
MinNodes: 4
[Software]
Name: all-keys
User: john:{HASH}
User: ann:*
SSHKey: john:{KEY} john@home
SSHKey: ann:{KEY}
Hostname: n%dx
Network: 10.1.2.0/28
Packages: zlib1g gcc
MetaPackages: mpi numeric
Suite: trixie
Kernel: linux-image-amd64
Lease: 90s
Site: s1
Install: once
"""

_package = st.from_regex(r"[a-z0-9][a-z0-9+.-]{0,20}[a-z0-9+]", fullmatch=True)
_users = st.lists(
    st.builds(User, st.from_regex(r"u[a-z0-9_-]{0,20}x", fullmatch=True), st.sampled_from([HASH, "*"])),
    max_size=3,
    unique_by=lambda user: user.name,
)


@st.composite
def any_request(draw: st.DrawFn) -> Request:
    nodes = draw(st.integers(1, 200))
    users = draw(_users)
    hardware = Hardware(
        number_of_nodes=nodes,
        architecture=draw(st.sampled_from(["amd64", "arm64"])),
        cpu_speed=draw(st.none() | st.integers(10**6, 10**11)),
        cpus=draw(st.integers(1, 1024)),
        ram=draw(st.integers(256 * 10**6, 16 * 10**12)),
        disk=draw(st.integers(3 * 10**9, 64 * 10**12)),
        spread=draw(st.sampled_from(["any", "hosts", "racks", "pack"])),
        min_nodes=draw(st.integers(1, nodes)),
        volume=draw(
            st.none() | st.builds(Volume, st.just("data"), st.integers(10**8, 10**12), st.booleans())
        ),
    )
    software = Software(
        name=draw(st.from_regex(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", fullmatch=True)),
        users=tuple(users),
        ssh_keys=tuple(
            SSHKey(user.name, KEY + comment)
            for user in users
            for comment in draw(st.sets(st.sampled_from(["", " a@b"])))
        ),
        hostname=draw(st.from_regex(r"[a-z][a-z0-9-]{0,20}%(0[1-9])?d[a-z]?", fullmatch=True)),
        network=IPv4Network((draw(st.integers(0x0A000000, 0x0AFFFFFF)) & 0xFFFFFF00, 24)),
        packages=tuple(draw(st.lists(_package, max_size=5, unique=True))),
        meta_packages=tuple(
            draw(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), max_size=2, unique=True))
        ),
        home=draw(st.sampled_from([None, "local", "shared", "site"])),
        suite=draw(st.none() | st.sampled_from(["bookworm", "on", "null"])),
        kernel=draw(st.none() | st.just("linux-image-amd64")),
        lease=draw(st.none() | st.integers(60, 366 * 86400)),
        idle=draw(st.none() | st.integers(60, 366 * 86400)),
        heal=draw(st.sampled_from([None, "restart", "off"])),
        site=draw(st.sampled_from(["any", "no", "s1"])),
        start=draw(st.sampled_from(["auto", "boot", "resume", "fork"])),
        install=draw(st.sampled_from(["auto", "each", "once"])),
    )
    return Request(hardware, software)
