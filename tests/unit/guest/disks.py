"""What tests need to make disks of a cluster and to read them by other tools: mtools and tar."""

import os
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vclust_py import request as requests
from vclust_py.guest import cluster_disk, trust
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.metapackages import MetaPackage, Secret, Step
from vclust_py.request import Request

HASH = "$6$throwaway$xqUkwY5nuoBA0dNDf9TICDMqkRqjtGvbsNhk7hY.KpgrEJ8Zvm9FNBb9VAgS.UJwdX.sxHcLDzLPNlccJjrEM0"

META = MetaPackage(
    name="demo",
    description="a demonstration",
    packages=("munge",),
    debconf=("munge munge/question boolean true",),
    steps=(Step("all", "echo 'on all'\n"), Step("first", "echo first\n")),
    secrets=(Secret("munge.key", 32),),
)

OWN_KEY = trust.new_key().public


def a_request(nodes: int = 3) -> Request:
    text = f"""
    [Hardware]
    NumberOfNodes: {nodes}
    CPUs: 2
    [Software]
    User: alice:{HASH}
    User: bob:*
    SSHKey: alice:{OWN_KEY} alice@home
    Hostname: n%d
    Network: 10.1.0.0/16
    """
    return requests.load(text, "demo.ini")


def an_earlier_authority() -> trust.Authority:
    """As earlier versions made them."""
    key = Ed25519PrivateKey.generate()
    return trust.Authority(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    )


def a_cluster(request: Request, authority: trust.Authority) -> ClusterIdentity:
    return ClusterIdentity(
        generation=1,
        request=request,
        nodes=dict(zip(request.hostnames, request.addresses, strict=True)),
        authority=authority,
        user_keys={login: authority.new_user_key(login) for login in cluster_disk.logins(request)},
        admin_key=trust.new_key().public,
        packages=("gcc=4:12.2.0-3", "python3=3.11.2-1+b1"),
        meta_packages=(META,),
        secrets=cluster_disk.new_secrets((META,)),
        uids=cluster_disk.new_uids(request),
    )


def unpack(image: bytes, folder: Path) -> Path:
    """The disk's files in `folder`, and what its files.tar.gz holds in `folder/files`."""
    (folder / "image").write_bytes(image)
    subprocess.run(["mcopy", "-s", "-n", "-i", folder / "image", "::", folder], check=True)
    if (folder / "files.tar.gz").exists():
        (folder / "files").mkdir()
        # Only root may give files away.
        owners = ["--same-owner"] if os.geteuid() == 0 else []
        command = ["tar", "-C", folder / "files", "-xpzf", folder / "files.tar.gz", *owners]
        subprocess.run(command, check=True)
    return folder


def listing(folder: Path) -> dict[str, tuple[str, ...]]:
    """Mode and owner of what files.tar.gz holds."""
    command = ["tar", "--numeric-owner", "-tvzf", folder / "files.tar.gz"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {line.split()[-1]: tuple(line.split()[:2]) for line in done.stdout.splitlines()}


def certificate(path: Path) -> dict[str, str]:
    """What ssh-keygen shows of a certificate: type, signing authority, validity, principals."""
    done = subprocess.run(["ssh-keygen", "-L", "-f", path], check=True, capture_output=True, text=True)
    fields, last = {}, ""
    for line in done.stdout.splitlines()[1:]:
        name, _, value = line.strip().partition(": ")
        if line.startswith(" " * 16):
            fields[last] = f"{fields[last]} {line.strip()}".strip()
        else:
            last = name.rstrip(": ")
            fields[last] = value.strip()
    return fields


def fingerprint(public: str, folder: Path) -> str:
    (folder / "key.pub").write_text(public)
    command = ["ssh-keygen", "-l", "-f", folder / "key.pub"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]
