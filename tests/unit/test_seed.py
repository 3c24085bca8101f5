"""Seeds, read back with other tools: mtools, tar, sh and ssh-keygen."""

import json
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from guest.disks import (
    HASH,
    a_cluster,
    a_request,
    an_earlier_authority,
    certificate,
    fingerprint,
    listing,
    unpack,
)

from vclust_py import seed
from vclust_py.guest import cluster_disk
from vclust_py.guest.trust import Authority
from vclust_py.nodes import identity_disks

AUTHORITY = Authority()
REQUEST = a_request()
UIDS = cluster_disk.new_uids(REQUEST)
NODES = [
    seed.new_node(name, address, AUTHORITY)
    for name, address in zip(REQUEST.hostnames, REQUEST.addresses, strict=True)
]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first two nodes' seeds, unpacked."""
    return [unpack(seed.build(node, REQUEST, UIDS), tmp_path_factory.mktemp(node.name)) for node in NODES[:2]]


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_cloud_init_finds_it_by_label() -> None:
    assert seed.build(NODES[0], REQUEST, UIDS)[43:54] == b"cidata     "


def test_a_shell_reads_who_the_node_is(disks: list[Path]) -> None:
    script = f'. {disks[1]}/node; echo "$instance|$name|$mac|$address|$router|$mtu"'
    done = subprocess.run(["sh", "-eu", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == f"{NODES[1].instance_id}|n2|52:54:0a:01:00:02|10.1.0.2/16|10.1.255.254|1500\n"


def test_a_node_more_in_a_cluster_of_an_earlier_version(tmp_path: Path) -> None:
    node = seed.new_node("n9", IPv4Address("10.1.0.9"), an_earlier_authority())
    disk = unpack(seed.build(node, REQUEST, UIDS), tmp_path)
    assert text(disk / "files", "etc/ssh/ssh_host_ed25519_key") == node.host_key.private
    assert "ed25519_certificate" in text(disk, "user-data")


def test_a_seed_is_the_same_in_a_cluster_of_2_and_of_1000() -> None:
    """Names, keys and packages of others are not in it: one more node makes no other's seed wrong."""
    assert len({seed.build(NODES[0], a_request(nodes), UIDS) for nodes in (2, 3, 1000)}) == 1


def test_seeds_of_1000_nodes_fit_into_10_mb() -> None:
    request = a_request(1000)
    sizes = [
        len(seed.build(seed.new_node(name, address, AUTHORITY), request, UIDS))
        for name, address in zip(request.hostnames, request.addresses, strict=True)
    ]
    # Digits of names and addresses, and what does not compress, may begin one sector more.
    assert max(sizes) - min(sizes) <= 2 * 512
    assert sum(sizes) + len(cluster_disk.build(a_cluster(request, AUTHORITY))) <= 10_000_000


def test_identities_differ(disks: list[Path]) -> None:
    for name in ("etc/machine-id", "etc/ssh/ssh_host_ecdsa_key", "var/lib/systemd/random-seed"):
        contents = {(folder / "files" / name).read_bytes() for folder in disks}
        assert len(contents) == 2, name
    assert len((disks[0] / "files/var/lib/systemd/random-seed").read_bytes()) == 512
    assert text(disks[1] / "files", "etc/hostname") == "n2\n"


def test_the_host_key_is_the_certified_one(disks: list[Path], tmp_path: Path) -> None:
    private = disks[0] / "files/etc/ssh/ssh_host_ecdsa_key"
    command = ["ssh-keygen", "-y", "-P", "", "-f", private]
    public = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert public.split()[:2] == private.with_name(private.name + ".pub").read_text().split()[:2]
    found = certificate(private.with_name(private.name + "-cert.pub"))
    assert fingerprint(public, tmp_path) in found["Public key"]
    assert fingerprint(AUTHORITY.key.public, tmp_path) in found["Signing CA"]
    assert found["Principals"] == "n1 10.1.0.1"


def test_owners_and_modes(disks: list[Path]) -> None:
    assert listing(disks[0]) == {
        "etc/hostname": ("-rw-r--r--", "0/0"),
        "etc/machine-id": ("-r--r--r--", "0/0"),
        "etc/ssh/ssh_host_ecdsa_key": ("-rw-------", "0/0"),
        "etc/ssh/ssh_host_ecdsa_key.pub": ("-rw-r--r--", "0/0"),
        "etc/ssh/ssh_host_ecdsa_key-cert.pub": ("-rw-r--r--", "0/0"),
        "var/lib/systemd/random-seed": ("-rw-------", "0/0"),
    }


def test_cloud_init_finds_the_same(disks: list[Path]) -> None:
    assert json.loads(text(disks[0], "meta-data")) == {
        "instance-id": NODES[0].instance_id,
        "local-hostname": "n1",
    }
    header, data = text(disks[0], "user-data").split("\n", 1)
    assert header == "#cloud-config"
    told = json.loads(data)
    assert [user["name"] for user in told["users"]] == ["alice", "bob"]
    assert told["users"][0]["hashed_passwd"] == HASH
    assert told["ssh_keys"]["ecdsa_private"] == text(disks[0] / "files", "etc/ssh/ssh_host_ecdsa_key")
    network = json.loads(text(disks[0], "network-config"))
    assert network["ethernets"]["cluster"]["addresses"] == ["10.1.0.1/16"]


def test_a_cloud_image_takes_what_nodes_share_from_the_clusters_disk(
    disks: list[Path], tmp_path: Path
) -> None:
    """Its command, with a `mount` that copies the disk's files, and this folder for /."""
    shared = unpack(cluster_disk.build(a_cluster(REQUEST, AUTHORITY)), _made(tmp_path / "disk"))
    *per_instance, command = json.loads(text(disks[0], "user-data").split("\n", 1)[1])["bootcmd"][0]
    assert per_instance == ["cloud-init-per", "instance", "vclust", "sh", "-c"]
    root = _made(tmp_path / "root")
    for name, body in (
        ("mount", f'[ "$3" = LABEL=vclust ] && cp {shared}/files.tar.gz "$4"'),
        ("umount", ":"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    command = command.replace("/run/vclust", str(tmp_path / "run")).replace("-C /", f"-C {root}")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", command], check=True, env=environment)
    assert "10.1.0.2\tn2\n" in text(root, "etc/hosts")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_cluster_of_an_earlier_version_keeps_its_seeds(tmp_path: Path) -> None:
    """Its domains are started again, after a restart of their host, with the installer and the disks that they had."""
    assert identity_disks(tmp_path, "n1") == ["n1.img", cluster_disk.FILE_NAME]
    (tmp_path / "n1.iso").touch()
    assert identity_disks(tmp_path, "n1") == ["n1.iso"]


def test_mac_holds_the_address() -> None:
    assert seed.mac_of(IPv4Address("192.168.10.129")) == "52:54:c0:a8:0a:81"
