"""The command and the playbooks around phases that do nothing (`stub.py`): progress, errors, Ctrl-C, kill."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from vclust_py import cli
from vclust_py.phases import ORDER
from vclust_py.site import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded site needs root")

BIN = Path(sys.executable).parent
STUBBED = ("resolve", "cache", "place", "image", "distribute", "create", "install", "ready", "destroy")
CACHE_STUBBED = ("stub", "stored", "rebuild", "past", "status", "background", "retention")


@dataclass
class Copy:
    """A copy of the project with stubs for phases, and a site of its own."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.path / "site"

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # A shell ignores Ctrl-C on behalf of what it runs in the background, nohup a lost terminal, and children
            # inherit that.
            ["env", "--default-signal=INT,HUP", BIN / argv[0], *argv[1:]],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(self.path), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def vclust(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run("vclust", *argv)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    shutil.copytree(PROJECT / "vclust_py", tmp_path / "vclust_py")
    # Copied: Ansible follows a link, and would take the inventory beside the real one, whose site is the machine's.
    shutil.copy(PROJECT / "ansible.cfg", tmp_path)
    for name in ("playbooks", "roles", "library", "plugins", "examples", "metapackages"):
        (tmp_path / name).symlink_to(PROJECT / name)
    for name in STUBBED:
        shutil.copy(Path(__file__).parent / "stub.py", tmp_path / f"vclust_py/phases/{name}.py")
    for name in CACHE_STUBBED:
        shutil.copy(Path(__file__).parent / "cache/stub.py", tmp_path / f"vclust_py/cache/{name}.py")
    shutil.copytree(PROJECT / "inventories/local", tmp_path / "inventories/local")
    variables = tmp_path / "inventories/local/group_vars/site_local.yml"
    settings = yaml.safe_load(variables.read_text()) | {"vclust_site": {"root": str(tmp_path / "site")}}
    variables.write_text(yaml.safe_dump(settings))
    made = Copy(tmp_path)
    yield made
    for process in made.started:
        process.kill()


def processes(word: str) -> list[str]:
    """Command lines of running processes that hold `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def wait_for(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come in {seconds} s"
        time.sleep(0.1)


def test_create_show_and_destroy(copy: Copy) -> None:
    done = copy.vclust("create", "examples/hello-mpi.ini")
    assert (done.returncode, done.stdout) == (0, "hello-mpi is ready: vclust ssh hello-mpi\n"), done.stderr
    lines = [line.split("] ", 1)[1] for line in done.stderr.splitlines()]
    assert [line for line in lines if ":" not in line] == list(ORDER)
    assert "create: all 2/2" in lines

    assert "hello-mpi" in copy.vclust("list").stdout
    shown = json.loads(copy.vclust("show", "hello-mpi", "--json").stdout)
    assert [record["phase"] for record in shown["phases"]] == [
        "request",
        "resolve",
        "image",
        "create",
        "install",
        "ready",
    ]
    assert "$6$" not in json.dumps(shown)
    assert "slowest" not in copy.vclust("show", "hello-mpi").stdout

    gone = copy.vclust("destroy", "hello-mpi")
    assert (gone.returncode, gone.stdout) == (0, "hello-mpi is destroyed\n")
    again = copy.vclust("destroy", "hello-mpi")
    assert again.returncode == 2
    assert "hello-mpi: no such cluster" in again.stderr


def test_create_and_destroy_as_json(copy: Copy) -> None:
    """One object at the end on standard output, the progress on standard error."""
    done = copy.vclust("create", "--json", "examples/hello-mpi.ini")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["exit_code"], told["name"], told["site"], told["lost"]) == (0, "hello-mpi", "local", [])
    assert told["seconds"] > 0
    shown = json.loads(copy.vclust("show", "hello-mpi", "--json").stdout)
    assert {"site": told["site"], **told["cluster"]} == shown
    assert "] ready" in done.stderr

    gone = json.loads(copy.vclust("destroy", "hello-mpi", "--json").stdout)
    assert (gone["exit_code"], gone["name"], gone["site"]) == (0, "hello-mpi", "local")
    assert gone["seconds"] > 0
    again = copy.vclust("destroy", "hello-mpi", "--json")
    assert again.returncode == 2
    wanted = "hello-mpi: no such cluster\n  hint: vclust list shows those there are"
    assert json.loads(again.stdout) == {"exit_code": 2, "error": wanted}

    copy.environment["VCLUST_STUB_ERROR"] = "VclustError"
    failed = copy.vclust("create", "examples/hello-mpi.ini", "--json")
    assert failed.returncode == 4
    assert json.loads(failed.stdout) == {
        "exit_code": 4,
        "error": "no such luck",
        "phase": "image",
        "name": "hello-mpi",
        "unfinished": True,
    }
    assert "vclust: image: no such luck" in failed.stderr
    copy.environment["VCLUST_STUB_SITES"] = '{"site": -1}'
    for words in (["plan"], ["create"]):
        failed = copy.vclust(*words, "examples/hello-mpi.ini", "--json")
        told = json.loads(failed.stdout)
        assert (failed.returncode, told["exit_code"], told["phase"]) == (3, 3, "place")
        assert told["error"].startswith("only 1 of 2 nodes fit")
        assert not told.get("unfinished")


@pytest.mark.parametrize(
    "words", [("stop",), ("start",), ("heal",), ("renew", "4h"), ("resize", "3"), ("upgrade",)]
)
def test_commands_for_the_life_of_a_cluster_that_cannot_have_one(copy: Copy, words: tuple[str, ...]) -> None:
    """With phases that do nothing no cluster has nodes: each says so, in its own words, and ends with its code."""
    command, *rest = words
    done = copy.vclust(command, "hello-mpi", *rest, "--json")
    assert done.returncode == 2, done.stderr
    assert "hello-mpi: no such cluster" in json.loads(done.stdout)["error"]
    assert copy.vclust("create", "examples/hello-mpi.ini").returncode == 0
    done = copy.vclust(command, "hello-mpi", *rest)
    said = {
        "stop": "vclust: stop: hello-mpi: got the state requested, expected a cluster whose nodes were started",
        "start": "hello-mpi is ready: vclust ssh hello-mpi",  # the stubs of its phases are content
        "heal": "vclust: heal: hello-mpi: got the state requested, expected a cluster that was ready",
        "renew": "vclust: renew: hello-mpi: Lease: has none: nothing ends it",
        "resize": "vclust: resize: hello-mpi: got the state requested, expected a cluster that is ready",
        "upgrade": "vclust: upgrade: hello-mpi: got the state requested, expected a cluster that is ready",
    }
    assert done.returncode == (0 if command == "start" else 2)
    assert said[command] in done.stdout + done.stderr


def test_plan_changes_nothing(copy: Copy) -> None:
    done = copy.vclust("plan", "examples/hello-mpi.ini")
    assert done.returncode == 0, done.stderr
    assert "hello02" in done.stdout
    assert "download: 1.5 kB, of 3 packages" in done.stdout
    assert "estimate: 4 s; no past runs of ready" in done.stdout
    assert "quota of user alice: 5 of 16 nodes with this" in done.stdout
    assert "cache: hit, abababababab with 2 packages saves 30 MB of 40 MB and 2 s" in done.stdout
    done = copy.vclust("-v", "plan", "--json", "examples/hello-mpi.ini")
    assert "TASK" in done.stderr  # what Ansible prints is no result
    plan = json.loads(done.stdout)
    assert plan["placement"] == {"hello01": "localhost", "hello02": "localhost"}
    assert not copy.root.joinpath("begun").exists()


@pytest.mark.parametrize(("error", "code"), [("VclustError", 4), ("CapacityError", 3)])
def test_a_failure_is_one_message(copy: Copy, error: str, code: int) -> None:
    copy.environment["VCLUST_STUB_ERROR"] = error
    done = copy.vclust("create", "examples/hello-mpi.ini")
    assert done.returncode == code
    told = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert told[0] == "vclust: image: no such luck"
    assert len(told) == (2 if code == 4 else 1)


def test_a_mistaken_request_starts_nothing(copy: Copy) -> None:
    (copy.path / "bad.ini").write_text("[Hardware]\nNumberOfNodes: -1\nRAM: 2XB\n")
    done = copy.vclust("create", "bad.ini")
    assert done.returncode == 2
    assert "bad.ini:2: NumberOfNodes: got '-1'" in done.stderr
    assert "bad.ini:3: RAM: got '2XB'" in done.stderr
    assert not copy.root.exists()


def test_a_lock_that_is_none(copy: Copy) -> None:
    (copy.path / "vclust_py/resolve.py").write_text((PROJECT / "vclust_py/resolve.py").read_text())
    (copy.path / "lock.json").write_text('{"suite": 1}')
    for name in ("lock.json", "nowhere.json", "vclust_py"):
        done = copy.vclust("create", "examples/hello-mpi.ini", "--locked", name)
        assert done.returncode == 2
        assert f"vclust: {name}: " in done.stderr
    assert not copy.root.exists()


@pytest.mark.parametrize("argv", [["create", "nowhere.ini"], ["-i", "nowhere", "list"], ["nonsense"], []])
def test_bad_usage(copy: Copy, argv: Sequence[str]) -> None:
    done = copy.vclust(*argv)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_inventory_without_the_site(copy: Copy) -> None:
    (copy.path / "far.yml").write_text(
        "hardware: {number_of_nodes: 1}\nsoftware: {name: far, site: nowhere}\n"
    )
    done = copy.vclust("create", "far.yml")
    assert done.returncode == 2
    assert "Site: got 'nowhere', expected any or one of local" in done.stderr


def test_ctrl_c_cleans_up_and_says_what_remains(copy: Copy) -> None:
    copy.environment["VCLUST_STUB_SECONDS"] = "60"
    process = copy.start("vclust", "create", "examples/hello-mpi.ini")
    wait_for("the phase image", 120, (copy.root / "begun").exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted in phase image" in errors
    assert (
        "`vclust create examples/hello-mpi.ini` takes it up, `vclust destroy hello-mpi` clears it" in errors
    )
    assert (copy.root / "cleaned").exists()
    assert processes(str(copy.path)) == []

    copy.environment.clear()
    assert copy.vclust("create", "examples/hello-mpi.ini").returncode == 0


AT_THE_END = """\
import atexit, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
# Comes after what the command does at its end; what Python does then is to give signals their default, which kills.
atexit.register(lambda: print(signal.getsignal(signal.SIGINT).name))
from vclust_py.cli import main
main(["completion", "bash"])
"""


def test_ctrl_c_when_all_is_done_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "SIG_IGN")


def test_a_killed_controller_takes_its_modules_along(copy: Copy) -> None:
    copy.environment["VCLUST_STUB_SECONDS"] = "60"
    process = copy.start("vclust", "create", "examples/hello-mpi.ini")
    wait_for("the phase image", 120, (copy.root / "begun").exists)
    process.kill()
    process.wait()
    wait_for("the clean-up", 120, (copy.root / "cleaned").exists)
    wait_for("the end of ansible-playbook", 120, lambda: not processes(str(copy.path)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_worker_cleans_up_however_ansible_ends(copy: Copy, number: signal.Signals) -> None:
    copy.environment["VCLUST_STUB_SECONDS"] = "60"
    process = copy.start(
        "ansible-playbook", "playbooks/create_vcluster.yml", "-e", "request=examples/hello-mpi.ini"
    )
    wait_for("the phase image", 30, (copy.root / "begun").exists)
    process.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    if process.poll() is None:
        process.send_signal(number)  # Ansible loses Ctrl-C at times, around a fork
    wait_for("the clean-up", 20, (copy.root / "cleaned").exists)
    wait_for("the end of all workers", 20, lambda: not processes(str(copy.path)))
    assert process.wait() != 0


def test_plain_ansible_playbook(copy: Copy) -> None:
    """Task results do not depend on the number of nodes; check mode stops after the plan."""
    counts = []
    for example in ("hello-mpi", "four-nodes"):
        done = copy.run(
            "ansible-playbook", "playbooks/create_vcluster.yml", "-e", f"request=examples/{example}.ini"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "$6$" not in done.stdout
        counts.append(sum(line.startswith(("ok:", "changed:")) for line in done.stdout.splitlines()))
    assert counts[0] == counts[1]

    planned = copy.run(
        "ansible-playbook",
        "playbooks/create_vcluster.yml",
        "-e",
        "request=examples/hello-mpi.ini",
        "--check",
        "--diff",
    )
    assert planned.returncode == 0, planned.stdout
    assert '"place_result.plan"' in planned.stdout

    for arguments in (
        ["status.yml"],
        ["rebuild_caches.yml"],
        ["destroy_vcluster.yml", "-e", "name=hello-mpi"],
    ):
        done = copy.run("ansible-playbook", f"playbooks/{arguments[0]}", *arguments[1:])
        assert done.returncode == 0, done.stdout + done.stderr


def test_cache_list_and_show(copy: Copy) -> None:
    done = copy.vclust("cache", "list", "--plot", "use.svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["abababababab", ""]
    assert lines[2].startswith("  acacacacacac")
    assert lines[3].endswith("used by demo")
    assert lines[4].startswith("2 caches, 21 MB of 5.0 GB, and 20 MB in 1 no longer chosen; last chosen ")
    assert lines[4].endswith(": done; 2 requests since")
    assert lines[6] == "100 creations, 66 from a cache; saved 4.0 GB of 10 GB installed (39.6%)"
    assert lines[7].count("·") + lines[7].count("▅") + lines[7].count("▃") == 60
    assert (copy.path / "use.svg").read_bytes().startswith(b"<?xml")

    told = json.loads(copy.vclust("cache", "list", "--json").stdout)
    assert [cache["packages"] for cache in told["caches"]] == [2, 3, 1]
    assert {cache["manager"] for cache in told["caches"]} == set(told["status"]) == {"localhost"}
    assert len(told["usage"]) == 100
    assert "holds" not in told["caches"][0]

    shown = copy.vclust("cache", "show", "ac")
    assert "stands on cache abababababab (layer 2 over" in shown.stdout
    assert (
        shown.stdout.index("r 4")
        < shown.stdout.index("in the caches under it")
        < shown.stdout.index("make 4")
    )
    assert json.loads(copy.vclust("cache", "show", "acac", "--json").stdout)["own"] == ["r=4"]
    for start, said in (("a", "a: more than one cache begins so: abab"), ("ff", "ff: no such cache")):
        done = copy.vclust("cache", "show", start)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert copy.vclust("cache", "show", "../x").returncode == 2


def test_cache_history(copy: Copy) -> None:
    done = copy.vclust("cache", "history", "--plot", "tree.svg")
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["3", "requests:"],
        ["REQUESTS", "IN", "COMMON", "PACKAGES", "CACHE", "MORE", "THAN", "ABOVE"],
        ["3", "30", "MB", "2", "●", "gcc,", "make"],
        ["1", "30", "MB", "3", "●", "r"],
        ["2", "30", "MB", "2"],
    ]
    assert (copy.path / "tree.svg").read_bytes().startswith(b"<?xml")
    told = json.loads(copy.vclust("cache", "history", "--json").stdout)
    assert told["packages"][0] == {"id": 0, "name": "gcc", "version": "12", "installed_size": 25_000_000}
    assert [row["closure"] for row in told["requests"]] == [[0, 1], [0, 1, 2], [0, 1]]


def test_cache_explain(copy: Copy) -> None:
    done = copy.vclust("cache", "explain", "examples/hello-mpi.ini")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cache: hit, abababababab")
    assert done.stdout.count("for a test") == 3
    told = json.loads(copy.vclust("cache", "explain", "examples/hello-mpi.ini", "--json").stdout)
    assert (told["cache"]["digest"], len(told["verdicts"])) == ("ab" * 32, 3)
    assert not copy.root.exists()


def test_cache_rebuild(copy: Copy) -> None:
    done = copy.vclust("cache", "rebuild")
    assert done.returncode == 0, done.stderr
    told = "policy nested, 7 requests: 3 caches chosen, 1 built, 0 dropped; 41 MB of 5.0 GB, 1.5 s\n"
    assert done.stdout == told
    assert "1 would be built" in copy.vclust("cache", "rebuild", "--check").stdout
    assert json.loads(copy.vclust("cache", "rebuild", "--json").stdout)["localhost"]["built"] == ["ab" * 32]
    copy.environment["VCLUST_STUB_BUILD"] = "fails"
    done = copy.vclust("cache", "rebuild")
    assert (done.returncode, done.stdout) == (4, "")
    assert "rebuild: 1 of 3 chosen caches could not be built:\n  efef" in done.stderr
    copy.environment["VCLUST_STUB_REBUILD"] = "VclustError"
    done = copy.vclust("cache", "rebuild")
    assert done.returncode == 4
    assert "vclust: rebuild: another one is at work" in done.stderr


def two_sites(copy: Copy, **south: object) -> dict[str, Any]:
    """An inventory of two embedded sites, `south` with more variables."""
    managers: dict[str, Any] = {
        name: {"vclust_site": {"root": str(copy.path / name)}} for name in ("north", "south")
    }
    managers["south"] |= south
    inventory = {
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "children": {
            "site_managers": {"hosts": managers},
            "vm_hosts": {"hosts": {"north": {}, "south": {}}},
            "site_north": {"hosts": {"north": {}}},
            "site_south": {"hosts": {"south": {}}},
        },
    }
    (copy.path / "two.yml").write_text(yaml.safe_dump({"all": inventory}))
    return managers


def test_two_sites_side_by_side(copy: Copy) -> None:
    two_sites(copy, vclust_site={"root": str(copy.path / "south"), "rot": "/"})
    done = copy.vclust("-i", "two.yml", "cache", "rebuild")
    assert done.returncode == 4
    assert done.stdout.startswith("north: policy nested, 7 requests: 3 caches chosen")
    assert "vclust: rebuild: south: vclust_site: rot: unknown setting" in done.stderr
    done = copy.vclust("-i", "two.yml", "cache", "list")
    assert (done.returncode, done.stdout.startswith("north:\n")) == (4, True), done
    assert "vclust: south: vclust_site: rot: unknown setting" in done.stderr

    two_sites(copy)
    lines = copy.vclust("-i", "two.yml", "cache", "list").stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["north:", "south:"]
    told = json.loads(copy.vclust("-i", "two.yml", "cache", "list", "--json").stdout)
    assert (len(told["caches"]), list(told["status"]), len(told["usage"])) == (6, ["north", "south"], 200)
    lines = copy.vclust("-i", "two.yml", "cache", "history").stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == [
        "north:",
        "3 requests:",
        "south:",
        "3 requests:",
    ]
    done = copy.vclust("-i", "two.yml", "cache", "history", "--plot", "tree.svg")
    assert (done.returncode, "--plot: north, south: each has a history" in done.stderr) == (2, True)


def test_clusters_of_two_sites(copy: Copy) -> None:
    two_sites(copy)

    def request(name: str, site: str) -> str:
        path = copy.path / f"{name}-{site}.yml"
        wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": name, "site": site}}
        path.write_text(yaml.safe_dump(wanted))
        return path.name

    def vclust(*words: str, code: int = 0) -> str:
        done = copy.vclust("-i", "two.yml", *words)
        assert done.returncode == code, done
        return done.stderr if code else done.stdout

    def clusters() -> set[tuple[str, str]]:
        return {(one["site"], one["name"]) for one in json.loads(vclust("list", "--json"))}

    for name, site in (("alpha", "north"), ("both", "north"), ("both", "south"), ("beta", "south")):
        vclust("create", request(name, site))
    everywhere = {("north", "alpha"), ("north", "both"), ("south", "both"), ("south", "beta")}
    assert clusters() == everywhere
    assert vclust("list").splitlines()[0].split()[:3] == ["NAME", "SITE", "STATE"]
    assert json.loads(vclust("show", "beta", "--json"))["site"] == "south"

    for words in (["show", "both"], ["ssh", "both"], ["destroy", "both"]):
        assert "both: there is one in north and south\n  hint: say which: north/both or south/both" in vclust(
            *words, code=2
        )
    assert "west" in vclust("destroy", "west/both", code=2)
    assert "north/beta: no such cluster" in vclust("destroy", "north/beta", code=2)
    assert json.loads(vclust("show", "south/both", "--json"))["site"] == "south"
    assert clusters() == everywhere
    vclust("destroy", "beta")
    vclust("destroy", "south/both")
    assert clusters() == {("north", "alpha"), ("north", "both")}
    assert "beta: no such cluster" in vclust("destroy", "beta", code=2)

    # The playbook acts where the cluster is, and asks where there are two.
    vclust("create", request("both", "south"))
    book = ["ansible-playbook", "-i", "two.yml", "playbooks/destroy_vcluster.yml", "-e"]
    done = copy.run(*book, "name=both")
    assert (done.returncode, "both: there is one in north and south; say which: -e" in done.stdout) == (
        2,
        True,
    )
    assert len(clusters()) == 3
    assert copy.run(*book, "name=north/both").returncode == 0
    assert clusters() == {("north", "alpha"), ("south", "both")}
    status = ["ansible-playbook", "-i", "two.yml", "playbooks/status.yml", "--tags", "clusters", "-e"]
    done = copy.run(*status, "name=south/both")
    assert (done.returncode, "ok: [south]" in done.stdout, "[north]" in done.stdout) == (0, True, False)
    assert copy.run(*book, "name=both").returncode == 0
    assert clusters() == {("north", "alpha")}
    assert copy.run(*book, "name=both").returncode == 0

    two_sites(copy, ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=9)
    done = copy.vclust("-i", "two.yml", "list", "--json")
    assert (done.returncode, [one["name"] for one in json.loads(done.stdout)]) == (4, ["alpha"])
    assert done.stderr.startswith("vclust: south: ")
    assert "no such cluster" not in vclust("show", "beta", code=4)
    vclust("destroy", "alpha")


def anywhere(copy: Copy, name: str = "roam", **software: Any) -> str:
    """A request that any site may take."""
    path = copy.path / f"{name}.yml"
    wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": name, **software}}
    path.write_text(yaml.safe_dump(wanted))
    return path.name


def test_any_site_is_the_one_that_can_be_ready_first(copy: Copy) -> None:
    two_sites(copy)
    request = anywhere(copy)
    two = ("-i", "two.yml")
    copy.environment["VCLUST_STUB_SITES"] = '{"north": 31, "south": 24}'
    why = "no site knows how long it takes: south has no past runs of ready, north has no past runs of ready"
    assert copy.vclust(*two, "plan", request).stdout.startswith(f"site: south ({why})\n")
    plan = json.loads(copy.vclust(*two, "plan", "--json", request).stdout)
    assert (plan["site"], plan["reason"]) == ("south", why)
    assert not copy.path.joinpath("north").exists()
    assert not copy.path.joinpath("south").exists()
    assert copy.vclust(*two, "cache", "explain", request).returncode == 0

    done = copy.vclust(*two, "create", request)
    assert (done.returncode, done.stdout) == (0, "south/roam is ready: vclust -i two.yml ssh south/roam\n"), (
        done.stderr
    )
    assert not copy.path.joinpath("north").exists()
    shown = json.loads(copy.vclust(*two, "show", "roam", "--json").stdout)
    assert (shown["site"], shown["reason"]) == ("south", why)
    assert f"site: south ({why})" in copy.vclust(*two, "show", "roam").stdout

    # What a site has goes on there, whichever would be sooner now.
    copy.environment["VCLUST_STUB_SITES"] = '{"north": 1, "south": 90}'
    assert (
        copy.vclust(*two, "create", request).stdout
        == "south/roam is ready: vclust -i two.yml ssh south/roam\n"
    )
    other = anywhere(copy, packages=["gcc"])
    assert (
        copy.vclust(*two, "create", other).stdout == "south/roam is ready: vclust -i two.yml ssh south/roam\n"
    )
    assert copy.vclust(*two, "create", anywhere(copy, "second")).stdout.startswith("north/second is ready")

    # The same with plain Ansible; in check mode the plan only.
    copy.environment["VCLUST_STUB_SITES"] = '{"north": 1, "south": -1}'
    book = ["ansible-playbook", *two, "playbooks/create_vcluster.yml", "-e"]
    planned = copy.run(*book, f"request={anywhere(copy, 'third')}", "--check")
    assert planned.returncode == 0, planned.stdout
    assert '"choose_result.reason": "no site knows' in planned.stdout
    assert "south has no space" in planned.stdout
    assert copy.run(*book, f"request={anywhere(copy, 'third')}").returncode == 0
    listed = json.loads(copy.vclust(*two, "list", "--json").stdout)
    assert {(one["site"], one["name"]) for one in listed} == {
        ("south", "roam"),
        ("north", "second"),
        ("north", "third"),
    }


def test_a_site_that_does_not_answer_stops_nobody(copy: Copy) -> None:
    two_sites(copy, ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=9)
    done = copy.vclust("-i", "two.yml", "create", anywhere(copy))
    assert (done.returncode, done.stdout) == (0, "north/roam is ready: vclust -i two.yml ssh north/roam\n"), (
        done.stderr
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(told) == 1
    assert told[0].startswith("vclust: warning: south: does not answer: ")

    # Settings that are none are no reason either to stop the others.
    two_sites(copy, vclust_site={"root": str(copy.path / "south"), "rot": "/"})
    done = copy.vclust("-i", "two.yml", "create", anywhere(copy, "second"))
    assert (done.returncode, "warning: south: Task failed: " in done.stderr) == (0, True)

    # Nobody but it had space: that is not known, and what the others lack is told.
    two_sites(copy, ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=9)
    copy.environment["VCLUST_STUB_SITES"] = '{"north": -1}'
    done = copy.vclust("-i", "two.yml", "create", anywhere(copy, "third"))
    assert done.returncode == 3
    told = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert told[:4] == [
        "vclust: choose: third: no site has space for it:",
        "  north: only 1 of 2 nodes fit:",
        "      h1: has 3 MB left",
        told[3],
    ]
    assert told[3].startswith("  south: does not answer: ")


def test_all_sites_full_and_none_at_all(copy: Copy) -> None:
    two_sites(copy)
    copy.environment["VCLUST_STUB_SITES"] = '{"north": -1, "south": -1}'
    done = copy.vclust("-i", "two.yml", "create", anywhere(copy))
    assert done.returncode == 3, done
    assert "south: only 1 of 2 nodes fit" in done.stderr


def test_a_site_that_hangs_is_left_out(copy: Copy) -> None:
    two_sites(copy)
    copy.environment["VCLUST_STUB_SITES"] = '{"north": -2}'
    book = [
        "ansible-playbook",
        "-i",
        "two.yml",
        "playbooks/create_vcluster.yml",
        "-e",
        "choose_timeout=2",
        "-e",
    ]
    done = copy.run(*book, f"request={anywhere(copy)}")
    assert done.returncode == 0, done.stdout
    assert "[WARNING]: north: does not answer: Task failed: Timed out after 2 second(s)." in done.stderr
    assert "DEPRECATION" not in done.stderr
    assert [one["site"] for one in json.loads(copy.vclust("-i", "two.yml", "list", "--json").stdout)] == [
        "south"
    ]


def test_words_of_ssh() -> None:
    asked = [
        cli.parse(["ssh", "a", *words])
        for words in ([], ["n1"], ["--", "ls", "-l"], ["n1", "--", "ls", "--", "x"])
    ]
    assert [(one.node, one.remote) for one in asked] == [
        (None, []),
        ("n1", []),
        (None, ["ls", "-l"]),
        ("n1", ["ls", "--", "x"]),
    ]


def test_help_loads_no_large_library() -> None:
    program = "import sys; from vclust_py.cli import parse; parse(['--help'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], check=True, capture_output=True, text=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "vclust_py" in loaded
    large = {"ansible", "ansible_runner", "cryptography", "libvirt", "numpy", "rich", "scipy", "sqlite3"}
    assert not loaded & (large | {"argcomplete"})


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse(["--version"])
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert (ended.value.code, capsys.readouterr().out) == (0, f"vclust {version}\n")
