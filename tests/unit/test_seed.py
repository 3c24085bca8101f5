"""Seeds, read back with other tools: xorriso and tar."""

import hashlib
import json
import os
import stat
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vclust_py import request as requests
from vclust_py import seed
from vclust_py.metapackages import MetaPackage, Secret, Step

HASH = "$6$throwaway$xqUkwY5nuoBA0dNDf9TICDMqkRqjtGvbsNhk7hY.KpgrEJ8Zvm9FNBb9VAgS.UJwdX.sxHcLDzLPNlccJjrEM0"

META = MetaPackage(
    name="demo",
    description="a demonstration",
    packages=("munge",),
    debconf=("munge munge/question boolean true",),
    steps=(Step("all", "echo 'on all'\n"), Step("first", "echo first\n")),
    secrets=(Secret("munge.key", 32),),
)


@pytest.fixture(scope="module")
def cluster() -> seed.ClusterIdentity:
    own = seed.new_key().public
    text = f"""
    [Hardware]
    NumberOfNodes: 3
    CPUs: 2
    [Software]
    User: alice:{HASH}
    User: bob:*
    SSHKey: alice:{own} alice@home
    Hostname: n%d
    Network: 10.1.2.0/24
    """
    request = requests.load(text, "demo.ini")
    user_key, admin_key = seed.cluster_keys()
    return seed.ClusterIdentity(
        request=request,
        nodes=tuple(map(seed.new_node, request.hostnames, request.addresses)),
        user_key=user_key,
        admin_key=admin_key.public,
        packages=("gcc=4:12.2.0-3", "python3=3.11.2-1+b1"),
        meta_packages=(META,),
        secrets=seed.new_secrets((META,)),
    )


@pytest.fixture(scope="module")
def disks(cluster: seed.ClusterIdentity, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first two nodes' seeds, unpacked by xorriso; files.tar unpacked by tar into `files`."""
    folders = []
    for node in cluster.nodes[:2]:
        folder = tmp_path_factory.mktemp(node.name)
        seed.build(node, cluster, folder / "seed.iso")
        assert [path.name for path in folder.iterdir()] == ["seed.iso"]
        command = [
            "xorriso",
            "-osirrox",
            "on",
            "-indev",
            folder / "seed.iso",
            "-extract",
            "/",
            folder / "disk",
        ]
        subprocess.run(command, check=True, capture_output=True)
        (folder / "files").mkdir()
        # Only root may give files away.
        owners = ["--same-owner"] if os.geteuid() == 0 else []
        command = ["tar", "-C", folder / "files", "-xpf", folder / "disk/vclust/files.tar", *owners]
        subprocess.run(command, check=True)
        folders.append(folder)
    return folders


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_image_is_private_and_is_called_cidata(disks: list[Path]) -> None:
    image = disks[0] / "seed.iso"
    assert stat.S_IMODE(image.stat().st_mode) == 0o600
    # ECMA-119 8.4: the primary volume descriptor is in sector 16, its volume id at byte 40.
    descriptor = image.read_bytes()[16 * 2048 : 17 * 2048]
    assert descriptor[1:6] == b"CD001"
    assert descriptor[40:72].decode().rstrip() == "cidata"


def test_both_extensions_are_there(disks: list[Path]) -> None:
    image = (disks[0] / "seed.iso").read_bytes()
    assert b"RRIP" in image or b"IEEE_P1282" in image  # Rock Ridge
    assert "user-data".encode("utf-16-be") in image  # Joliet


def test_lines_for_the_installer(cluster: seed.ClusterIdentity, disks: list[Path]) -> None:
    disk = disks[0] / "disk/vclust"
    assert (
        text(disk, "passwd")
        == "alice:x:1000:1000::/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash\n"
    )
    assert text(disk, "shadow") == f"alice:{HASH}::0:99999:7:::\nbob:*::0:99999:7:::\n"
    assert text(disk, "group") == "alice:x:1000:\nbob:x:1001:\n"
    assert text(disk, "groups") == "sudo alice\nadm alice\nsudo bob\nadm bob\n"
    assert text(disk, "network") == "52:54:0a:01:02:01 10.1.2.1/24 10.1.2.254 1500\n"
    assert text(disk, "instance") == f"{cluster.nodes[0].instance_id}\n"


def test_steps_of_the_first_and_of_another_node(disks: list[Path]) -> None:
    def steps(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in (folder / "disk/vclust/steps").iterdir()}

    assert steps(disks[0]) == {
        "01-demo": "#!/bin/sh\nset -eu\necho 'on all'\n",
        "02-demo": "#!/bin/sh\nset -eu\necho first\n",
    }
    assert steps(disks[1]) == {"01-demo": "#!/bin/sh\nset -eu\necho 'on all'\n"}


def test_a_shell_reads_the_environment(disks: list[Path]) -> None:
    script = (
        f'. {disks[1]}/disk/vclust/environment; echo "$VCLUST_NODE of $VCLUST_NODE_NAMES on $VCLUST_CPUS"'
    )
    done = subprocess.run(["sh", "-eu", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "n2 of n1 n2 n3 on 2\n"


def test_names_and_hosts(disks: list[Path]) -> None:
    files = disks[1] / "files"
    assert text(files, "etc/hostname") == "n2\n"
    assert "10.1.2.1\tn1\n10.1.2.2\tn2\n10.1.2.3\tn3\n" in text(files, "etc/hosts")
    assert text(files, "etc/vclust/hostfile") == "n1\nn2\nn3\n"
    assert text(files, "etc/vclust/hostfile.openmpi") == "n1 slots=2\nn2 slots=2\nn3 slots=2\n"
    assert "HYDRA_HOST_FILE=/etc/vclust/hostfile\n" in text(files, "etc/environment")


def test_identities_differ(disks: list[Path]) -> None:
    for name in ("etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "var/lib/systemd/random-seed"):
        contents = {(folder / "files" / name).read_bytes() for folder in disks}
        assert len(contents) == 2, name
    assert len((disks[0] / "files/var/lib/systemd/random-seed").read_bytes()) == 512


def test_openssh_takes_the_keys(cluster: seed.ClusterIdentity, disks: list[Path]) -> None:
    for name in ("etc/ssh/ssh_host_ed25519_key", "home/alice/.ssh/id_ed25519"):
        private = disks[0] / "files" / name
        command = ["ssh-keygen", "-y", "-P", "", "-f", private]
        public = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert public.split()[:2] == private.with_name(private.name + ".pub").read_text().split()[:2]
    known = disks[0] / "files/etc/ssh/ssh_known_hosts"
    for wanted in ("n3", "10.1.2.3"):
        command = ["ssh-keygen", "-F", wanted, "-f", known]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert cluster.nodes[2].host_key.public.split()[1] in found


def test_who_may_log_in(cluster: seed.ClusterIdentity, disks: list[Path]) -> None:
    files = disks[0] / "files"
    own = cluster.request.software.ssh_keys[0].key
    assert text(files, "home/alice/.ssh/authorized_keys") == f"{own}\n{cluster.user_key.public} demo\n"
    assert text(files, "home/bob/.ssh/authorized_keys") == f"{cluster.user_key.public} demo\n"
    assert text(files, "root/.ssh/authorized_keys") == f'from="10.1.2.254" {cluster.admin_key} vclust\n'


def test_owners_and_modes(disks: list[Path]) -> None:
    command = ["tar", "--numeric-owner", "-tvf", disks[0] / "disk/vclust/files.tar"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {line.split()[-1]: tuple(line.split()[:2]) for line in listing.splitlines()}
    assert found["home/alice/"] == ("drwx------", "1000/1000")
    assert found["home/bob/.ssh/"] == ("drwx------", "1001/1001")
    assert found["home/alice/.ssh/id_ed25519"] == ("-rw-------", "1000/1000")
    assert found["etc/ssh/ssh_host_ed25519_key"] == ("-rw-------", "0/0")
    assert found["var/lib/vclust/secrets/"] == ("drwx------", "0/0")
    assert found["var/lib/vclust/secrets/munge.key"] == ("-rw-------", "0/0")
    assert found["etc/hosts"] == ("-rw-r--r--", "0/0")
    assert not any(path.startswith(("/", "..")) for path in found)


def test_secrets_are_the_same_on_all_nodes(cluster: seed.ClusterIdentity, disks: list[Path]) -> None:
    for folder in disks:
        assert (folder / "files/var/lib/vclust/secrets/munge.key").read_bytes() == cluster.secrets[
            "munge.key"
        ]


def test_expected(disks: list[Path]) -> None:
    files = disks[1] / "files"
    keys = hashlib.sha256((files / "home/alice/.ssh/authorized_keys").read_bytes()).hexdigest()
    lines = text(files, "var/lib/vclust/expected").splitlines()
    assert lines[:7] == [
        "package gcc 4:12.2.0-3",
        "package python3 3.11.2-1+b1",
        "host n1 10.1.2.1",
        "host n2 10.1.2.2",
        "host n3 10.1.2.3",
        "user alice 1000",
        f"key alice {keys}",
    ]
    assert lines[-1] == "disk 4000000000"


def test_cloud_init_finds_the_same(cluster: seed.ClusterIdentity, disks: list[Path]) -> None:
    disk = disks[0] / "disk"
    assert json.loads(text(disk, "meta-data")) == {
        "instance-id": cluster.nodes[0].instance_id,
        "local-hostname": "n1",
    }
    header, data = text(disk, "user-data").split("\n", 1)
    assert header == "#cloud-config"
    assert [user["name"] for user in json.loads(data)["users"]] == ["alice", "bob"]
    assert json.loads(data)["users"][0]["hashed_passwd"] == HASH
    network = json.loads(text(disk, "network-config"))
    assert network["ethernets"]["cluster"]["addresses"] == ["10.1.2.1/24"]


def test_mac_holds_the_address() -> None:
    assert seed.mac_of(IPv4Address("192.168.10.129")) == "52:54:c0:a8:0a:81"


def test_an_old_seed_is_replaced_whole(cluster: seed.ClusterIdentity, tmp_path: Path) -> None:
    path = tmp_path / "n1.iso"
    path.write_bytes(b"old")
    seed.build(cluster.nodes[0], cluster, path)
    assert path.stat().st_size > 100_000
    assert list(tmp_path.iterdir()) == [path]


def test_all_seeds_of_a_cluster(cluster: seed.ClusterIdentity, tmp_path: Path) -> None:
    seed.build_all(cluster, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1.iso", "n2.iso", "n3.iso"]


def test_a_folder_that_is_not_there(cluster: seed.ClusterIdentity, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        seed.build(cluster.nodes[0], cluster, tmp_path / "none" / "n1.iso")
