"""The cluster's disk, read back with other tools: mtools, tar, sh, ssh-keygen."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from guest.disks import (
    HASH,
    OWN_KEY,
    a_cluster,
    a_request,
    an_earlier_authority,
    certificate,
    fingerprint,
    listing,
    unpack,
)

from vclust_py import request as requests
from vclust_py.guest import cluster_disk
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.guest.trust import Authority


@pytest.fixture(scope="module")
def cluster() -> ClusterIdentity:
    return a_cluster(a_request(), Authority())


@pytest.fixture(scope="module")
def disk(cluster: ClusterIdentity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(cluster_disk.build(cluster), tmp_path_factory.mktemp("disk"))


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_accounts(disk: Path) -> None:
    assert (
        text(disk, "passwd")
        == "alice:x:1000:1000::/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash\n"
    )
    assert text(disk, "shadow") == f"alice:{HASH}::0:99999:7:::\nbob:*::0:99999:7:::\n"
    assert text(disk, "group") == "alice:x:1000:\nbob:x:1001:\n"
    assert text(disk, "groups") == "sudo alice\nadm alice\nsudo bob\nadm bob\n"


def test_steps_say_whether_they_are_the_first_nodes(disk: Path) -> None:
    assert {path.name: path.read_text() for path in disk.glob("step-*")} == {
        "step-01-demo": "#!/bin/sh\nset -eu\necho 'on all'\n",
        "step-02-demo.first": "#!/bin/sh\nset -eu\necho first\n",
    }


def test_a_shell_reads_the_environment(disk: Path) -> None:
    script = (
        f'. {disk}/environment; echo "$VCLUST_NODES $VCLUST_NODE_NAMES on $VCLUST_CPUS, $VCLUST_FIRST leads"'
    )
    done = subprocess.run(["sh", "-eu", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "3 n1 n2 n3 on 2, n1 leads\n"


def test_a_cluster_of_an_earlier_version_finds_its_keys_where_they_are(tmp_path: Path) -> None:
    cluster = a_cluster(a_request(), an_earlier_authority())
    files = unpack(cluster_disk.build(cluster), tmp_path) / "files"
    assert "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n" in text(
        files, "etc/ssh/sshd_config.d/vclust.conf"
    )
    assert (files / "home/alice/.ssh/id_ed25519").exists()
    assert not (files / "home/alice/.ssh/id_ecdsa").exists()


def test_names_and_hosts(disk: Path) -> None:
    files = disk / "files"
    assert "10.1.0.1\tn1\n10.1.0.2\tn2\n10.1.0.3\tn3\n" in text(files, "etc/hosts")
    assert text(files, "etc/vclust/hostfile") == "n1\nn2\nn3\n"
    assert text(files, "etc/vclust/hostfile.openmpi") == "n1 slots=2\nn2 slots=2\nn3 slots=2\n"
    assert "HYDRA_HOST_FILE=/etc/vclust/hostfile\n" in text(files, "etc/environment")
    assert text(files, "etc/vclust/generation") == "1\n"


def test_another_generation_says_so(cluster: ClusterIdentity, tmp_path: Path) -> None:
    later = replace(cluster, generation=2, nodes={**cluster.nodes, "n7": cluster.nodes["n3"] + 4})
    files = unpack(cluster_disk.build(later), tmp_path) / "files"
    assert text(files, "etc/vclust/generation") == "2\n"
    assert text(files, "etc/vclust/hostfile") == "n1\nn2\nn3\nn7\n"
    assert "10.1.0.7\tn7\n" in text(files, "etc/hosts")


def test_nodes_and_users_are_known_by_the_authority_alone(
    cluster: ClusterIdentity, disk: Path, tmp_path: Path
) -> None:
    files = disk / "files"
    public = cluster.authority.key.public
    assert text(files, "etc/ssh/ssh_known_hosts") == f"@cert-authority * {public}\n"
    assert text(files, "etc/ssh/vclust_authority.pub") == f"{public} demo\n"
    assert "TrustedUserCAKeys /etc/ssh/vclust_authority.pub\n" in text(
        files, "etc/ssh/sshd_config.d/vclust.conf"
    )
    for user in ("alice", "bob"):
        found = certificate(files / f"home/{user}/.ssh/id_ecdsa-cert.pub")
        assert found["Principals"] == user
        assert fingerprint(public, tmp_path) in found["Signing CA"]


def test_no_disk_holds_the_authority_itself(cluster: ClusterIdentity, disk: Path) -> None:
    secret = cluster.authority.key.private.splitlines()[4]  # after the public half, which is everywhere
    assert all(secret.encode() not in path.read_bytes() for path in disk.rglob("*") if path.is_file())


def test_every_user_has_a_key_of_their_own(disk: Path) -> None:
    keys = {text(disk / "files", f"home/{user}/.ssh/id_ecdsa") for user in ("alice", "bob")}
    assert len(keys) == 2


def test_who_may_log_in_by_key(cluster: ClusterIdentity, disk: Path) -> None:
    files = disk / "files"
    assert text(files, "home/alice/.ssh/authorized_keys") == f"{OWN_KEY} alice@home\n"
    assert text(files, "home/bob/.ssh/authorized_keys") == ""
    assert text(files, "root/.ssh/authorized_keys") == f'from="10.1.255.254" {cluster.admin_key} vclust\n'
    assert not (files / "root/.ssh/id_ecdsa").exists()


def test_who_has_no_password_is_asked_for_none_by_sudo(disk: Path, tmp_path: Path) -> None:
    rules = disk / "files/etc/sudoers.d/vclust"
    assert rules.read_text().splitlines()[1:] == ["bob ALL=(ALL:ALL) NOPASSWD: ALL"]
    assert listing(disk)["etc/sudoers.d/vclust"] == ("-r--r-----", "0/0")
    request = requests.load(f"[Hardware]\nNumberOfNodes: 1\n[Software]\nUser: alice:{HASH}\n", "one.ini")
    files = unpack(cluster_disk.build(a_cluster(request, Authority())), tmp_path) / "files"
    assert not (files / "etc/sudoers.d").exists()


def test_root_alone_has_a_certificate(tmp_path: Path) -> None:
    request = requests.load("[Hardware]\nNumberOfNodes: 2\n", "bare.ini")
    files = unpack(cluster_disk.build(a_cluster(request, Authority())), tmp_path) / "files"
    assert certificate(files / "root/.ssh/id_ecdsa-cert.pub")["Principals"] == "root"
    assert not (files / "home").exists()


def test_owners_and_modes(disk: Path) -> None:
    found = listing(disk)
    assert found["home/alice/"] == ("drwx------", "1000/1000")
    assert found["home/bob/.ssh/"] == ("drwx------", "1001/1001")
    assert found["home/alice/.ssh/id_ecdsa"] == ("-rw-------", "1000/1000")
    assert found["home/bob/.ssh/id_ecdsa"] == ("-rw-------", "1001/1001")
    assert found["var/lib/vclust/secrets/"] == ("drwx------", "0/0")
    assert found["var/lib/vclust/secrets/munge.key"] == ("-rw-------", "0/0")
    assert found["etc/hosts"] == ("-rw-r--r--", "0/0")
    assert found["etc/ssh/sshd_config.d/vclust.conf"] == ("-rw-r--r--", "0/0")
    assert not any(path.startswith(("/", "..")) for path in found)


def test_secrets(cluster: ClusterIdentity, disk: Path) -> None:
    assert (disk / "files/var/lib/vclust/secrets/munge.key").read_bytes() == cluster.secrets["munge.key"]


def test_expected(disk: Path) -> None:
    files = disk / "files"
    keys = hashlib.sha256((files / "home/alice/.ssh/authorized_keys").read_bytes()).hexdigest()
    lines = text(files, "var/lib/vclust/expected").splitlines()
    assert lines[:7] == [
        "package gcc 4:12.2.0-3",
        "package python3 3.11.2-1+b1",
        "host n1 10.1.0.1",
        "host n2 10.1.0.2",
        "host n3 10.1.0.3",
        "user alice 1000",
        f"key alice {keys}",
    ]
    assert lines[-1] == "disk 4000000000"


def test_no_node_is_called_as_the_disk(cluster: ClusterIdentity) -> None:
    """Both are files of one folder."""
    with pytest.raises(Exception, match="a host-name pattern"):
        requests.load(
            "[Hardware]\nNumberOfNodes: 1\n[Software]\nHostname: "
            f"{cluster_disk.FILE_NAME.removesuffix('.img')}%d\n",
            "x.ini",
        )
