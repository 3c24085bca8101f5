"""Names: an empty one is none, and no user takes the account of a service."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vclust_py import request
from vclust_py.errors import RequestError
from vclust_py.image import installer
from vclust_py.phases import Inputs, destroy
from vclust_py.request.system_names import SYSTEM_NAMES
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.describe import describe
from vclust_py.site.session import Session
from vclust_py.site.store import Store

busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")

HASH = "$6$salt$" + "a" * 86
# Accounts that packages of Debian 12 make when they are installed: a sample.
SERVICES = """
ntpsec tcpdump uuidd postfix postdrop opendkim dovecot dovenull exim mysql postgres redis memcache mosquitto
rabbitmq zookeeper munge slurm libvirt-qemu libvirt swtpm docker haproxy varnish vcache squid unbound
pdns knot nsd bind frr bird prometheus grafana munin zabbix nagios icinga collectd statd nslcd sssd openldap
freerad ceph gluster tomcat jetty tor privoxy stunnel4 coturn kamailio prosody ejabberd znc mumble-server
clamav amavis debian-spamd greylist postgrey cyrus courier arpwatch snort logcheck backuppc bacula nut
transmission minidlna mpd icecast2 colord geoclue rtkit sddm lightdm saned usbmux fwupd-refresh plocate
nova glance cinder neutron keystone swift heat barbican designate ironic manila octavia sge condor ganglia
systemd-resolve debian-tor
"""


def a_request(name: str) -> str:
    return f"[Hardware]\nNumberOfNodes: 1\n[Software]\nName: x\nUser: {name}:{HASH}\n"


def test_no_user_is_called_as_a_service() -> None:
    for name in (*SERVICES.split(), *SYSTEM_NAMES):
        with pytest.raises(RequestError, match="a name that Debian does not use"):
            request.load(a_request(name), "x.ini")


@pytest.mark.parametrize(
    "name", ["alice", "bob", "john", "mary", "student", "mpiuser", "guest", "ubuntu", "debian"]
)
def test_people_may_be_called_as_they_are(name: str) -> None:
    assert request.load(a_request(name), "x.ini").software.users[0].name == name


@pytest.mark.skipif(os.geteuid() != 0, reason="the site's state is root's")
@pytest.mark.parametrize("name", ["", " ", "x\n", "../x", "X", "{{ x }}", "%", "x" * 40])
def test_what_is_no_name_is_no_cluster(tmp_path: Path, name: str) -> None:
    """With a cluster that could be taken for it."""
    session = Session(Site(root=tmp_path / "site"))
    store = session.store
    clusters.register(store, request.load(a_request("alice"), "x.ini"))
    calls: list[Any] = [
        lambda: clusters.find(store, name),
        lambda: clusters.get(store, name),
        lambda: describe(store, name),
        lambda: destroy.run(session, Inputs(name)),
        lambda: destroy.run(session, Inputs(name, check=True)),
        lambda: clusters.locked(store, name).__enter__(),
    ]
    for call in calls:
        with pytest.raises(RequestError, match=r"name: got .*, expected up to 31 of a-z"):
            call()
    assert [cluster.name for cluster in clusters.live(store)] == ["x"]


def test_modules_take_no_empty_name(tmp_path: Path) -> None:
    """Every module that has a `name` ends with exit code 2."""

    class Ended(Exception):
        pass

    class Module:
        check_mode = True

        def __init__(self, params: dict[str, Any]) -> None:
            self.params = params

        def exit_json(self, **values: Any) -> None:
            pytest.fail(f"{self.params}: {values}")

        def warn(self, message: str) -> None:
            pytest.fail(message)

        def fail_json(self, msg: str, **values: Any) -> None:
            assert "name: got ''" in msg
            assert values["exit_code"] == 2
            raise Ended

    tried = 0
    site = {"root": str(tmp_path / "site")}
    clusters.register(Store(Site.from_mapping(site)), request.load(a_request("alice"), "x.ini"))
    for path in (PROJECT / "library").glob("vclust_*.py"):
        module = runpy.run_path(str(path), run_name=path.stem)
        spec = module["argument_spec"]()
        if "name" not in spec:
            continue
        defaults = {key: option.get("default") for key, option in spec.items()}
        others = {"state": "absent", "hosts": [], "results": [], "duration": "1h", "tag": "first"}
        wanted = {**defaults, **others, "site": site, "name": ""}
        module["main"].__globals__["AnsibleModule"] = lambda wanted=wanted, **_: Module(wanted)
        with pytest.raises(Ended):
            module["main"]()
        tried += 1
    assert tried >= 5


# In the node: vclust_py/image/guest/init ------------------------------------------------------------------------


def identity(root: Path, *, status: int) -> str:
    """Let busybox run init's own functions against a folder, as PID 1 does against the node's root."""
    text = (installer.GUEST / "init").read_text()
    functions = text[: text.index("\nmount -t devtmpfs")]
    functions = functions.replace(". /identity\n", (installer.GUEST / "identity").read_text(), 1)
    functions = functions.replace("PATH=/bin\n", "", 1).replace("ROOT=/root\n", f"ROOT={root}\n", 1)
    functions = functions.replace("/dev/console", str(root / "console")).replace("poweroff -f", "exit 9")
    script = f"{functions}\nSEED={root}/seed CLUSTER={root}/cluster\napply_identity both\n"
    done = subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    console = root / "console"
    return console.read_text() if console.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "etc/skel").mkdir(parents=True)
    (tmp_path / "etc/skel/.profile").touch()
    (tmp_path / "home/alice").mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/bash\nkraken:x:107:113::/var/lib/kraken:/bin/false\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nkraken:x:113:\nsquids:x:114:\n")
    (tmp_path / "etc/shadow").write_text("root:*:::::::\nkraken:!:::::::\n")
    (tmp_path / "etc/gshadow").write_text("root:*::\nkraken:!::\nsquids:!::\n")
    for disk in ("seed", "cluster"):
        (tmp_path / disk).mkdir()
        command = ["tar", "-c", "-z", "-f", tmp_path / disk / "files.tar.gz", "-T", "/dev/null"]
        subprocess.run(command, check=True)
    return tmp_path


def disk_with(node: Path, name: str, uid: int) -> None:
    (node / f"home/{name}").mkdir(exist_ok=True)
    (node / "cluster/passwd").write_text(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n")
    (node / "cluster/group").write_text(f"{name}:x:{uid}:\n")
    (node / "cluster/shadow").write_text(f"{name}:{HASH}:::::::\n")


@busybox
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to users")
def test_an_identity_is_applied_again(node: Path) -> None:
    disk_with(node, "alice", 1000)
    for _ in range(2):
        assert identity(node, status=0) == ""
        assert (node / "etc/passwd").read_text().count("\nalice:") == 1
        assert f"alice:{HASH}" in (node / "etc/shadow").read_text()


@busybox
@pytest.mark.parametrize(
    ("name", "uid", "said"),
    [
        ("kraken", 1000, "kraken: a package of this cluster has an account of that name"),
        ("squids", 1000, "squids: a package of this cluster has a group of that name"),
        ("alice", 107, "alice: a package of this cluster has an account of its number, kraken"),
    ],
)
def test_a_node_refuses_a_user_whose_name_a_package_has(node: Path, name: str, uid: int, said: str) -> None:
    disk_with(node, name, uid)
    before = (node / "etc/passwd").read_text(), (node / "etc/shadow").read_text()
    assert identity(node, status=9) == f"vclust: failed identity: {said}\n"
    assert ((node / "etc/passwd").read_text(), (node / "etc/shadow").read_text()) == before
