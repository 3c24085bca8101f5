"""What the roll-out runs on a host: what it looks at, the files it writes, libvirt's network hook."""

import json
import os
import pwd
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import StrictUndefined, Template
from test_module import call

from vclust_py.site import PROJECT

HOOK = PROJECT / "vclust_py/network_hook.py"
SEGMENT = "vc0123456789"

root = pytest.mark.skipif(os.geteuid() != 0, reason="root's work")


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return runpy.run_path(str(PROJECT / "library/vclust_host_info.py"), run_name="info")


def test_missing_packages(info: dict[str, Any]) -> None:
    status = "installed zstd\nconfig-files nftables\nnot-installed xen\n"
    assert info["missing"](["zstd", "nftables", "xen", "none"], status) == ["nftables", "xen", "none"]


def test_options_of_xen(info: dict[str, Any]) -> None:
    text = "free_memory            : 1234\nxen_commandline        : console=com1 dom0_mem=384M,max:384M\ncc : gcc\n"
    assert info["xen_options"](text) == ["console=com1", "dom0_mem=384M,max:384M"]
    assert info["xen_options"]("") == []


@pytest.mark.parametrize(
    ("flags", "module"), [("fpu vmx", "kvm_intel"), ("fpu svm npt", "kvm_amd"), ("fpu svm_lock xvmx", "")]
)
def test_module_of_kvm(info: dict[str, Any], flags: str, module: str) -> None:
    text = f"processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: {flags}\nbugs\t: svm vmx\n"
    assert info["kvm_module"](text) == module
    assert info["kvm_module"]("") == ""


def test_kvm_that_is_not_there(info: dict[str, Any], tmp_path: Path) -> None:
    kvm = with_globals(info["kvm"], KVM=str(tmp_path / "kvm"))
    assert "neither VMX nor SVM" in kvm("")
    assert kvm("no_such_module").endswith("/kvm, and the kernel has no module no_such_module")


@root
def test_kvm_that_is_none(info: dict[str, Any], tmp_path: Path) -> None:
    """Tried as the user that QEMU runs as: root could open it."""
    device = tmp_path / "kvm"
    device.touch(mode=0o600)
    tmp_path.chmod(0o755)
    guest = with_globals(info["kvm_guest"], KVM=str(device))
    kvm_as = with_globals(info["kvm_as"], kvm_guest=guest)
    assert "Permission denied" in kvm_as("daemon")
    assert "Inappropriate ioctl for device" in kvm_as("no-such-user")


def test_kvm_that_is_too_slow(info: dict[str, Any]) -> None:
    def busy() -> None:
        while True:
            pass

    kvm_as = with_globals(info["kvm_as"], kvm_guest=busy, KVM_CPU_SECONDS=0.1)
    assert "did not end within 0.1 s of the processor's time" in kvm_as("no-such-user")


def with_globals(function: Callable[..., Any], **values: Any) -> Callable[..., Any]:
    """The function, with other values for names of its module."""
    return types.FunctionType(function.__code__, {**function.__globals__, **values})


def test_listening(info: dict[str, Any]) -> None:
    table = (
        "  sl  local_address rem_address   st\n"
        "   0: 0B004D0A:4082 00000000:0000 0A 00000000:00000000\n"
        "   1: 0B004D0A:0016 01004D0A:D2A0 01 00000000:00000000\n"
    )
    assert info["listening"](table, 16514)
    assert not info["listening"](table, 22)
    assert not info["listening"]("", 16514)


def test_confined(info: dict[str, Any]) -> None:
    assert info["confined"](
        "virt-aa-helper (enforce)\nlibvirtd (enforce)\nlibvirtd//qemu_bridge_helper (enforce)\n"
    )
    assert info["confined"]("/usr/sbin/libvirtd (complain)\n")
    assert not info["confined"]("virt-aa-helper (enforce)\nlibvirtd//qemu_bridge_helper (enforce)\n")
    assert not info["confined"]("")


def test_this_machine(tmp_path: Path) -> None:
    answer = call("vclust_host_info", {"packages": ["dpkg", "no-such-package"]})
    assert not answer["changed"]
    assert answer["missing"] == ["no-such-package"]
    assert answer["xen"] is Path("/proc/xen/capabilities").exists()
    assert answer["grub"] in ("none", "stale", "current")
    assert answer["libvirt"] in ("absent", "deaf", "stale", "current")
    assert answer["kvm"]


@root
def test_files_four_ways(tmp_path: Path) -> None:
    folder, file = tmp_path / "a" / "b", tmp_path / "a" / "b" / "text"
    files = [
        {"path": str(folder), "mode": "0711"},
        {"path": str(file), "mode": "0640", "content": "one\nzwei ä\n", "owner": "daemon"},
    ]
    would = call("vclust_files", {"files": files}, check=True)
    assert would["paths"] == [str(folder), str(file)]
    assert not folder.exists()
    real = call("vclust_files", {"files": files})
    assert real["diff"] == would["diff"]
    assert real["diff"][1]["after"] == "file 0640 daemon:daemon\none\nzwei ä\n"
    assert not call("vclust_files", {"files": files})["changed"]
    assert not call("vclust_files", {"files": files}, check=True)["changed"]

    assert file.read_text(encoding="utf-8") == "one\nzwei ä\n"
    assert file.stat().st_mode & 0o7777 == 0o640
    assert pwd.getpwuid(file.stat().st_uid).pw_name == "daemon"
    assert folder.stat().st_mode & 0o7777 == 0o711
    assert list(folder.iterdir()) == [file]

    for spoil in (lambda: file.chmod(0o600), lambda: os.chown(file, 0, 0), lambda: file.write_text("other")):
        spoil()
        assert call("vclust_files", {"files": files})["paths"] == [str(file)]
        assert not call("vclust_files", {"files": files})["changed"]


@root
def test_files_of_a_user_become_the_folders(tmp_path: Path) -> None:
    folder, below = tmp_path / "images", tmp_path / "images" / "below"
    below.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("x")
    for name in ("a", "b", "c", "below/d"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o666)
    (folder / "link").symlink_to(precious)
    daemon = pwd.getpwnam("daemon")
    for path in (precious, folder, below, folder / "a", folder / "b", below / "d"):
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
    os.chown(folder / "link", daemon.pw_uid, daemon.pw_gid, follow_symlinks=False)
    files = [{"path": str(folder), "mode": "0755", "reclaim": "daemon"}]
    would = call("vclust_files", {"files": files}, check=True)
    assert would["diff"][0]["before"] == "folder 0755 daemon:daemon\nof another: a\nof another: b\n"
    assert would["diff"][0]["after"] == "folder 0755 root:root\n"
    assert (folder / "a").owner() == "daemon"
    real = call("vclust_files", {"files": files})
    assert real["diff"] == would["diff"]
    assert [(folder / name).owner() for name in ("a", "b", "c", "below", "below/d")] == [
        "root", "root", "root", "daemon", "daemon"
    ]  # fmt: skip
    assert [(folder / name).stat().st_mode & 0o777 for name in ("a", "c")] == [0o644, 0o666]
    assert precious.owner() == "daemon"
    assert not call("vclust_files", {"files": files})["changed"]
    os.chown(folder / "b", daemon.pw_uid, -1)  # the folder alone would not show it
    assert call("vclust_files", {"files": files}, check=True)["changed"]
    assert call("vclust_files", {"files": files})["diff"][0]["before"].endswith("root:root\nof another: b\n")
    nobody = [{**files[0], "reclaim": "no-such-user"}]
    assert not call("vclust_files", {"files": nobody})["changed"]


@root
def test_files_that_shall_be_gone(tmp_path: Path) -> None:
    ours, shared, kept = tmp_path / "ours", tmp_path / "shared", tmp_path / "kept"
    for folder in (ours / "deep", shared / "deep", kept):
        folder.mkdir(parents=True)
    secret = "PRIVATE" + "x" * 20
    for file in (ours / "deep/key", shared / "deep/key", kept / "others"):
        file.write_text(secret)
        file.chmod(0o600)
    (ours / "link").symlink_to(kept)
    (tmp_path / "loose").symlink_to(kept)
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    files = [
        *(
            {"path": str(tmp_path / name), "state": "absent"}
            for name in ("ours", "loose", "dangling", "none")
        ),
        {"path": str(shared / "deep/key"), "state": "absent"},
        *(
            {"path": str(path), "state": "absent_if_empty"}
            for path in (shared / "deep", shared, kept, tmp_path / "none", kept / "others")
        ),
    ]
    would = call("vclust_files", {"files": files}, check=True)
    assert (kept / "others").exists()
    assert (ours / "deep/key").exists()
    real = call("vclust_files", {"files": files})
    assert real["diff"] == would["diff"]
    assert secret not in json.dumps(real)
    gone = [
        tmp_path / name for name in ("ours", "loose", "dangling", "shared/deep/key", "shared/deep", "shared")
    ]
    assert real["paths"] == [str(path) for path in gone]
    assert real["diff"][3]["before"] == "file 0600 root:root\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "others").read_text() == secret
    assert not call("vclust_files", {"files": files})["changed"]
    assert not call("vclust_files", {"files": files}, check=True)["changed"]
    answer = call("vclust_files", {"files": [{"path": str(kept)}]})
    assert "mode: got nothing, expected permissions" in answer["msg"]


@root
def test_files_that_cannot_be(tmp_path: Path) -> None:
    def fails(**one: str) -> str:
        answer = call("vclust_files", {"files": [{"mode": "0644", **one}]})
        assert answer["failed"]
        return str(answer["msg"])

    (tmp_path / "file").touch()
    assert "is a file already" in fails(path=str(tmp_path / "file"))
    assert "is a folder already" in fails(path=str(tmp_path), content="")
    assert "No such file" in fails(path=str(tmp_path / "none" / "file"), content="")
    assert "no-such-user" in fails(path=str(tmp_path / "new"), content="", owner="no-such-user")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def xml(metadata: str, name: str = SEGMENT) -> str:
    return (
        f"<hookData><network><name>{name}</name><metadata>{metadata}</metadata>"
        f"<bridge name='{name}' stp='off' delay='0'/></network></hookData>"
    )


METADATA = (
    '<segment xmlns="https://vclust.invalid/segment" number="7" address="{local}">'
    '<peer address="10.77.0.2" macs="52:54:00:00:00:01 52:54:00:00:00:02"/><peer address="10.77.0.3"/></segment>'
)
EARLIER = (
    '<segment xmlns="https://vclust.invalid/segment" vni="7" local="10.77.0.1" peers="10.77.0.2 10.77.0.3"/>'
)
Hook = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    """Runs the hook in a network namespace with an underlay and the segment's bridge; `nft` and `bridge` say when
    they came and then do their work."""
    namespace = f"vclust-hook-{os.getpid()}"
    (tmp_path / "bin").mkdir()
    nft = tmp_path / "bin" / "nft"
    nft.write_text(
        "#!/bin/sh\n"
        f"ls /sys/class/net >{tmp_path}/before\necho $* >>{tmp_path}/nft\n"
        f"exec {shutil.which('nft')} $*\n"
    )
    nft.chmod(0o755)
    bridge = tmp_path / "bin" / "bridge"
    bridge.write_text(f'#!/bin/sh\necho $* >>{tmp_path}/bridge\nexec {shutil.which("bridge")} "$@"\n')
    bridge.chmod(0o755)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        for words in (
            "link add under type veth peer name other",
            "address add 10.77.0.1/24 dev under",
            "link set under up",
            f"link add {SEGMENT} type bridge",
            f"link set {SEGMENT} up",
        ):
            subprocess.run(["ip", "-netns", namespace, *words.split()], check=True)

        def run(*words: str, text: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                ["ip", "netns", "exec", namespace, sys.executable, HOOK, *words],
                input=text,
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": f"{nft.parent}:{os.environ['PATH']}"},
            )

        run.namespace = namespace  # type: ignore[attr-defined]
        yield run
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


def inside(hook: Hook, *argv: str) -> Any:
    namespace = hook.namespace  # type: ignore[attr-defined]
    return subprocess.run(
        ["ip", "netns", "exec", namespace, *argv], check=True, capture_output=True, text=True
    ).stdout


@root
def test_hook_joins_and_leaves(hook: Hook, tmp_path: Path) -> None:
    text, device = xml(METADATA.format(local="10.77.0.1")), f"{SEGMENT}x"
    for _ in range(2):  # the second finds what a killed libvirtd has left
        done = hook(SEGMENT, "started", "begin", "-", text=text)
        assert (done.returncode, done.stderr) == (0, "")
        (link,) = json.loads(inside(hook, "ip", "-json", "-details", "link", "show", device))
        data = link["linkinfo"]["info_data"]
        assert (link["master"], link["mtu"]) == (SEGMENT, 1450)
        assert "UP" in link["flags"]
        assert (data["id"], data["local"], data["port"]) == (7, "10.77.0.1", 4789)
        assert not data["learning"]
        for setting, value in (("arp_ignore", "8"), ("rp_filter", "1"), ("forwarding", "0")):
            assert inside(hook, "cat", f"/proc/sys/net/ipv4/conf/{SEGMENT}/{setting}").strip() == value
        entries = json.loads(inside(hook, "bridge", "-json", "fdb", "show", "dev", device))
        assert [one["dst"] for one in entries if one["mac"] == "00:00:00:00:00:00"] == [
            "10.77.0.2",
            "10.77.0.3",
        ]
        for mac in ("52:54:00:00:00:01", "52:54:00:00:00:02"):
            there = [one for one in entries if one["mac"] == mac]
            assert [(one["state"], one["flags"]) for one in there if "master" in one] == [
                ("static", ["sticky"])
            ]
            assert [one["dst"] for one in there if "dst" in one] == ["10.77.0.2"]
        rules = inside(hook, "nft", "list", "table", "inet", "vclust_segments")
        assert "elements = { 0x7 : goto vc0123456789 }" in rules
        assert "ip saddr { 10.77.0.2, 10.77.0.3 } accept" in rules
    assert device not in (tmp_path / "before").read_text(), "the rules come before the device"

    for _ in range(2):
        done = hook(SEGMENT, "stopped", "end", "-", text=text)
        assert (done.returncode, done.stderr) == (0, "")
        assert device not in inside(hook, "ip", "link")
        assert SEGMENT not in inside(hook, "nft", "list", "ruleset")


@root
def test_a_segment_of_an_earlier_version_goes(hook: Hook) -> None:
    """It was started before this hook was rolled out; what has no other members is not started anew."""
    device = f"{SEGMENT}x"
    inside(hook, "ip", "link", "add", device, "type", "vxlan", "id", "7", "dstport", "4789")
    done = hook(SEGMENT, "started", "begin", "-", text=xml(EARLIER))
    assert (done.returncode, device in inside(hook, "ip", "link")) == (1, True)
    assert "made by another version of vclust" in done.stderr
    done = hook(SEGMENT, "stopped", "end", "-", text=xml(EARLIER))
    assert (done.returncode, done.stderr, device in inside(hook, "ip", "link")) == (0, "", False)


@root
def test_a_number_that_is_taken(hook: Hook) -> None:
    """The second segment does not start, and its clean-up does not take the first one's rules."""
    text = xml(METADATA.format(local="10.77.0.1"))
    assert hook(SEGMENT, "started", "begin", "-", text=text).returncode == 0
    rules = inside(hook, "nft", "list", "ruleset")
    inside(hook, "ip", "link", "add", "vc9999999999", "type", "bridge")
    done = hook(
        "second", "started", "begin", "-", text=xml(METADATA.format(local="10.77.0.1"), "vc9999999999")
    )
    assert (done.returncode, "File exists" in done.stderr) == (1, True)
    assert inside(hook, "nft", "list", "ruleset") == rules


@root
def test_a_thousand_nodes(hook: Hook, tmp_path: Path) -> None:
    macs = [f"52:54:0a:00:{number >> 8:02x}:{number & 255:02x}" for number in range(1000)]
    peers = "".join(
        f'<peer address="10.77.1.{n}" macs="{" ".join(macs[n * 10 : n * 10 + 10])}"/>' for n in range(100)
    )
    text = xml(
        f'<segment xmlns="https://vclust.invalid/segment" number="7" address="10.77.0.1">{peers}</segment>'
    )
    done = hook(SEGMENT, "started", "begin", "-", text=text)
    assert (done.returncode, done.stderr) == (0, "")
    # As many calls as for one node: entries go over in one batch.
    assert (tmp_path / "bridge").read_text().count("\n") <= 2
    entries = json.loads(inside(hook, "bridge", "-json", "fdb", "show", "dev", f"{SEGMENT}x"))
    assert {one["mac"] for one in entries if "dst" in one} == {*macs, "00:00:00:00:00:00"}
    assert {one["mac"] for one in entries if "sticky" in one["flags"]} == set(macs)


@root
@pytest.mark.parametrize("what", ["start", "port-created", "port-deleted"])
def test_hook_minds_its_own_business(hook: Hook, what: str) -> None:
    assert hook(SEGMENT, what, "begin", "-", text=xml(METADATA.format(local="10.77.0.1"))).returncode == 0
    for text in (xml(""), xml("<other xmlns='urn:other' vni='7'/>"), "<hookData/>"):
        assert hook("default", "started", "begin", "-", text=text).returncode == 0
    assert f"{SEGMENT}x" not in inside(hook, "ip", "link")


@root
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rubbish", "syntax error"),
        (xml(METADATA.format(local="10.77.0.1; reboot")), "10.77.0.1; reboot"),
        (xml(METADATA.format(local="10.77.0.1").replace('"7"', '"many"')), "many"),
        (xml(METADATA.format(local="10.77.0.1").replace('"7"', '"16777216"')), "16777216: not the number"),
        (xml(METADATA.format(local="10.77.0.1").replace("00:01 ", "00:01;")), "not a hardware address"),
        (
            xml(METADATA.format(local="10.77.0.1").replace("52:54:00:00:00:01", "01:00:5e:00:00:01")),
            "not a hardware",
        ),
        (xml(METADATA.format(local="10.77.0.1").replace("10.77.0.3", "10.77.0.3 drop")), "10.77.0.3 drop"),
        (xml(METADATA.format(local="10.77.0.1"), "virbr0"), "virbr0: not the bridge of a segment"),
        (xml(METADATA.format(local="10.77.0.1"), "vc9999999999"), "ip -batch -: "),
    ],
)
def test_hook_says_why_a_segment_cannot_start(hook: Hook, text: str, said: str) -> None:
    done = hook(SEGMENT, "started", "begin", "-", text=text)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vclust: network {SEGMENT}: ")
    assert said in done.stderr
    assert "vxlan" not in inside(hook, "ip", "-details", "link")


@root
def test_no_rules_no_device(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "bin" / "nft").write_text("#!/bin/sh\necho no such table >&2\nexit 1\n")
    done = hook(SEGMENT, "started", "begin", "-", text=xml(METADATA.format(local="10.77.0.1")))
    assert done.returncode == 1
    assert "no such table" in done.stderr
    assert f"{SEGMENT}x" not in inside(hook, "ip", "link")


def site_yml(*words: str) -> "subprocess.CompletedProcess[str]":
    playbook = Path(sys.executable).with_name("ansible-playbook")
    argv = [playbook, "-i", "inventories/local", "playbooks/site.yml", "--check", *words]
    return subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


@root
def test_a_site_of_one_machine_needs_no_host_rolled_out(tmp_path: Path) -> None:
    done = site_yml("-e", json.dumps({"vclust_site": {"root": str(tmp_path / "site")}}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed=0" in done.stdout
    assert not (tmp_path / "site").exists()


@root
def test_hosts_that_the_roll_out_cannot_make(tmp_path: Path) -> None:
    settings = {"vclust_site": {"root": str(tmp_path / "site")}, "vclust_libvirt_uri": "qemu+ssh://h/system"}
    done = site_yml("-e", json.dumps(settings))
    assert done.returncode == 2
    said = " ".join((done.stdout + done.stderr).split())
    assert (
        "vclust_libvirt_uri: got 'qemu+ssh://h/system', expected qemu+tls://ADDRESS/system or xen+tls://ADDRESS/system"
        in said
    )


UNITS = sorted(
    path
    for role in ("vm_host", "site_manager")
    for path in (PROJECT / "roles" / role / "templates").glob("*.service.j2")
)
EXPOSURE = 3.0
"""What systemd thinks of each (0 to 10), at most."""
MORE_EXPOSED = {"vclust-keeper.service": 4.3}
"""It makes networks, talks in them, and starts what runs under other accounts and in namespaces of its own."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_hardened(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    variables = {
        "site_manager_name": "local",
        "site_manager_python": "/usr/bin/python3",
        "_site_manager_root": "/var/lib/vclust",
        "_site_manager_unit": "vclust-upkeep-local",
        "_site_manager_caches_unit": "vclust-caches-local",
        "_site_manager_bases_unit": "vclust-bases-local",
        "_site_manager_packages_unit": "vclust-packages-local",
        "_site_manager_word": "",
        "_vm_host_hop": "/usr/local/lib/vclust/hop.pyz",
        "_vm_host_listen": "10.0.0.1",
        "_vm_host_chain_port": 7365,
    }
    for template in path.parent.glob(f"{path.stem.partition('.')[0]}.*"):
        text = Template(template.read_text(), undefined=StrictUndefined).render(variables)
        (folder / template.stem).write_text(f"{text}\n")
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--no-pager", path.stem],
        capture_output=True,
        text=True,
        check=True,
    )
    assert security.stderr == "", "something in it systemd does not know"
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", security.stdout)
    assert found is not None, security.stdout
    assert float(found[1]) <= MORE_EXPOSED.get(path.stem, EXPOSURE)
