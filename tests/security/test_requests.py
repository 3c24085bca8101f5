"""Hostile requests: each one gets an answer, in a second or two, of at most 4 KB, and has no effect.

And what users type or hand over stays secret: no hash in any output or argument list.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from vclust_py import request
from vclust_py.errors import RequestError
from vclust_py.request.parsing import MAX_TEXT
from vclust_py.site import PROJECT

MOST = 4096
KEY = base64.b64encode((11).to_bytes(4, "big") + b"ssh-ed25519" + bytes(40)).decode()


def ini(*lines: str) -> str:
    return "\n".join(["[Hardware]", "NumberOfNodes: 1", "[Software]", "Name: x", *lines, ""])


def hard(line: str) -> str:
    return f"[Hardware]\n{line}\n[Software]\nName: x\n"


def flow(value: str, section: str = "software", key: str = "packages") -> str:
    other = "hardware: {number_of_nodes: 1}\n" if section == "software" else ""
    return f"{other}{section}: {{{key}: {value}}}\n"


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


_JINJA = ["{{ 1 }}", "{{lookup('pipe','id')}}", "{% x %}", "{# x #}", "${x}", "%(x)s", "{0.__class__}"]
_SHELL = ["a;id", "$(id)", "`id`", "a|id", "a&&id", "a>b", "a'b", 'a"b', "a\\", "~root", "*", "a\tb"]
_PATHS = ["../x", "/etc/passwd", "..", ".", "a/b", "a//b", "%2e%2e", "a\u2215b"]
_XML = ["<domain/>", "&lt;", "]]>", "<!DOCTYPE x>", "a'/><b c='"]
_OPTIONS = ["-x", "--force", "-oProxyCommand=id", "-", "--"]
_DIGITS = ["\u0663", "\uff11", "1\u0660", "\u00b2", "1_0", "+1", "0x1", "1e3", "01", "1.0", "\u0967GB"]
_HUGE = ["9" * 13, "9" * 4300, "9" * 100_000, "-1", "-" + "9" * 100, "inf", "nan", "1e309", "0"]
_INVISIBLE = ["a\u200bb", "a\u202eb", "\u2066a", "a\u00adb", "\ufeffa", "a\u0301", "\u0430bc", "a\u00a0b"]

REQUESTS: dict[str, tuple[str, str]] = {}
"""Name → file name, text."""


def _add(kind: str, source: str, *texts: str) -> None:
    for text in texts:
        REQUESTS[f"{kind} {len(REQUESTS)}"] = source, text


_WORDS = [*_JINJA, *_SHELL, *_PATHS, *_XML, *_OPTIONS, *_INVISIBLE]
_add("name", "x.ini", *(ini().replace("Name: x", f"Name: {word}") for word in _WORDS))
_add(
    "package",
    "x.ini",
    *(ini(f"Packages: {word}") for word in (*_JINJA, *_SHELL, *_PATHS, *_XML, *_OPTIONS) if word != ".."),
)
_add(
    "host name",
    "x.ini",
    *(ini(f"Hostname: {word}") for word in ("vc", "%s%d", "%d%d", "%99d", "%n", "a%d.b", "-%d", "%(x)d")),
)
_add("host name", "x.ini", ini(f"Hostname: {'a' * 62}%d"), ini("Hostname: %*d"))
_add(
    "user",
    "x.ini",
    *(ini(f"User: {word}:*") for word in ("root", "-x", "a b", "A", "../x", "{{ x }}", "a:b", "", "x" * 32)),
)
_add(
    "hash",
    "x.ini",
    *(ini(f"User: a:{word}") for word in ("", "x", "$1$a$b", "!", "**", "$6$a$b\\n", "a:0:0::/:/bin/sh")),
)
_add(
    "key",
    "x.ini",
    *(
        ini("User: a:*", f"SSHKey: a:{word}")
        for word in ("", "x", 'command="id" ssh-ed25519 AAAA', "ssh-ed25519 AAAA")
    ),
)
_add(
    "key",
    "x.ini",
    ini("User: a:*", f"SSHKey: a:ssh-ed25519 {KEY} $(id)"),
    ini(f"SSHKey: b:ssh-ed25519 {KEY}"),
)
_add("number", "x.ini", *(hard(f"NumberOfNodes: {word}") for word in (*_DIGITS, *_HUGE)))
_add(
    "size",
    "x.ini",
    *(
        ini().replace("[Software]", f"RAM: {word}\n[Software]")
        for word in ("9" * 400 + "GB", "1EB", "-1GB", "\u0663GB")
    ),
)
_add(
    "network",
    "x.ini",
    *(
        ini(f"Network: {word}")
        for word in ("0.0.0.0/0", "127.0.0.0/8", "::/0", "1.2.3.4/24", "10.0.0.0/33", "10.0.0.0/31")
    ),
)
_add("network", "x.ini", ini("Network: \u0661\u0660.0.0.0/24"), ini("Network: 010.0.0.0/24x"))
_add("suite", "x.ini", *(ini(f"Suite: {word}") for word in ("../x", "-x", "a b", "{{ x }}", "A", "x" * 50)))
_add(
    "kernel",
    "x.ini",
    *(ini(f"Kernel: {word}") for word in ("bash", "linux-image-", "linux-image-../x", "-x")),
)
_add(
    "form",
    "x.ini",
    "",
    "[",
    "[Hardware",
    "]",
    "[Hardware]]",
    "=",
    ":",
    "NumberOfNodes: 1",
    "[Hardware]\nNumberOfNodes: 1\nNumberOfNodes: 1",
)
_add(
    "form",
    "x.ini",
    "[Hardware]\n" * 20_000,
    ini("Packages: a") * 3,
    "[Nothing]\nx: y",
    "#" * 200_000,
    ini(*(["x: 1"] * 40_000)),
)
_add(
    "control",
    "x.ini",
    *(ini(f"Suite: a{c}b") for c in ("\0", "\x1b[2J", "\x07", "\r", "\x7f", "\x85", "\x9b31m", "\x0b")),
)
_add(
    "control",
    "x.ini",
    *(ini(f"Suite: a{c}b") for c in ("\u2028", "\u202e", "\ufeff", "\ud800", "\U000e0041")),
)
_add(
    "anchors",
    "x.yml",
    bomb(9),
    "a: &a [*a]",
    "hardware: &h {number_of_nodes: 1}\nsoftware: *h",
    "&a a: b",
    "<<: {a: b}",
)
_add(
    "tags",
    "x.yml",
    "!!python/object/apply:os.system ['id']",
    "a: !!binary eA==",
    "!x {}",
    flow("!!set {a}"),
    "%TAG ! x:\n--- !y a",
)
_add(
    "nesting", "x.yml", "[" * 100_000, "{" * 100_000, "- " * 100_000, "? " * 100_000, flow("[" * 7 + "]" * 7)
)
_add("nesting", "x.yml", "\n".join(" " * n + "a:" for n in range(700)))
_add(
    "YAML",
    "x.yml",
    "---\n" * 60_000,
    "a: b\n--- c",
    "a: 'b",
    "a: |\n\x07",
    "%YAML 9.9\n---\na",
    "\t- a",
    "a: b: c",
    '"\\UFFFFFFFF": 1',
)
_add(
    "YAML",
    "x.yml",
    flow("[" + "_," * 120_000 + "]"),
    flow("{a: b}"),
    flow("[[a]]"),
    flow("true"),
    flow("2024-13-99T"),
    flow(".nan"),
)
_add(
    "YAML",
    "x.yml",
    flow("9" * 5000, "hardware", "number_of_nodes"),
    flow("1:2:3", "hardware", "number_of_nodes"),
    flow(".inf", "hardware", "ram"),
)
_add(
    "YAML",
    "x.yml",
    *(flow(json.dumps(word)) for word in _WORDS[:8]),
    "hardware: [1]",
    "software: 3",
    "null",
    "[]",
    "'x'",
)
_add(
    "JSON",
    "x.json",
    "[" * 50_000,
    '{"hardware": ' * 900 + "1" + "}" * 900,
    '{"hardware": {"number_of_nodes": 1e999}}',
    "{",
    '"\\ud800"',
)
_add(
    "size of all",
    "x.ini",
    "x" * (MAX_TEXT + 1),
    "x" * MAX_TEXT,
    ini("Packages: " + "_ " * 120_000),
    ini(*["User: a:*"] * 20_000),
)
_add(
    "size of all",
    "x.yml",
    "x" * MAX_TEXT,
    "\n".join(f"k{n}: 1" for n in range(25_000)),
    "hardware:\n" + "  <<: {a: 1}\n" * 15_000,
)
_add(
    "size of all",
    "x.yml",
    "a: [" + "&a x," * 50_000 + "]",
    "#\n" * 120_000,
    "hardware:\n" + "  ram: 1GB\n" * 20_000,
)


def test_there_are_many() -> None:
    assert len(REQUESTS) >= 125


@pytest.mark.parametrize("which", REQUESTS)
def test_a_hostile_request_is_one_short_error(which: str) -> None:
    source, text = REQUESTS[which]
    begun = time.process_time()
    with pytest.raises(RequestError) as caught:
        request.load(text, source)
    assert time.process_time() - begun < 10  # hostile input could take minutes
    message = str(caught.value)
    assert 0 < len(message.encode()) < MOST
    assert all(c.isprintable() or c == "\n" for c in message)
    assert all("\n" not in problem for problem in caught.value.problems)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "unit", ["a: 1\n", "[a]\n", "a,", "- a\n", "{a: b},", "x\n", "\u0661: \u202e\n", "&a ", "!a ", "'a'\n"]
)
@pytest.mark.parametrize("source", ["x.ini", "x.yml", "x"])
def test_any_full_length_is_answered_soon(unit: str, source: str) -> None:
    text = (unit * MAX_TEXT)[:MAX_TEXT]
    for head in ("", "hardware:\n  ", "[Software]\n", "software: {packages: ["):
        begun = time.process_time()
        with pytest.raises(RequestError) as caught:
            request.load(f"{head}{text}"[:MAX_TEXT], source)
        assert time.process_time() - begun < 2.5
        assert len(str(caught.value).encode()) < MOST


@pytest.mark.parametrize(
    "data", [b"\xff\xfe[\0H\0", b"\x80", b"[Hardware]\n\xc0\xaf", b"\xed\xa0\x80", b"\x1f\x8b\x08"]
)
def test_bytes_that_are_no_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.ini").write_bytes(data)
    with pytest.raises(RequestError, match=r"x\.ini:\d+: file: got byte 0x.., expected UTF-8"):
        request.read(tmp_path / "x.ini")


def test_devices_and_folders(tmp_path: Path) -> None:
    for path in ("/dev/zero", "/dev/null", tmp_path, tmp_path / ("x" * 300), tmp_path / "none"):
        with pytest.raises(RequestError):
            request.read(Path(path))


DEEP: Any = "x"
for _ in range(5000):
    DEEP = [DEEP]
MAPPINGS: list[Any] = [
    None,
    [],
    "x",
    10**5000,
    DEEP,
    {"hardware": DEEP},
    {"hardware": {"number_of_nodes": 10**5000}},
    {"hardware": {"number_of_nodes": float("inf")}, "software": {"name": "x"}},
    {"hardware": {"number_of_nodes": True}},
    {"hardware": {"number_of_nodes": b"1"}},
    {"hardware": {"number_of_nodes": "1"}, "software": {"name": "{{ lookup('pipe', 'id') }}"}},
    {"hardware": {f"k{n}": 1 for n in range(100_000)}},
    {f"\x1b{n}": 1 for n in range(100_000)},
    {1: 2, None: 3, (1, 2): 4, "\n": 5},
    {"hardware": {"number_of_nodes": 1}, "software": {"name": "x", "packages": ["_"] * 100_000}},
    {"hardware": {"number_of_nodes": 1}, "software": {"name": "x", "users": [{"name": "a" * 10**6}] * 1000}},
]


@pytest.mark.parametrize("number", range(len(MAPPINGS)))
def test_a_hostile_mapping(number: int) -> None:
    begun = time.process_time()
    with pytest.raises(RequestError) as caught:
        request.from_mapping(MAPPINGS[number], "vclust_request")
    assert time.process_time() - begun < 10  # hostile input could take minutes
    assert len(str(caught.value).encode()) < MOST


# Secrets --------------------------------------------------------------------------------------------------------

HASH = "$6$saltsalt$" + "Hh" * 43
"""As no other text has it."""


@pytest.mark.skipif(os.geteuid() != 0, reason="the embedded site needs root")
@pytest.mark.parametrize("modules", [False, True], ids=["in Ansible's worker", "modules"])
@pytest.mark.parametrize("form", ["vclust", "file", "mapping"])
def test_no_hash_in_any_output_or_argument(tmp_path: Path, form: str, modules: bool) -> None:
    """With all that -vvv shows, through phases that are real, on to one that fails; argument lists of all processes."""
    shutil.copytree(PROJECT / "vclust_py", tmp_path / "vclust_py")
    for name in ("ansible.cfg", "playbooks", "roles", "library", "plugins", "metapackages"):
        (tmp_path / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "inventories/local", tmp_path / "inventories/local")
    variables = tmp_path / "inventories/local/group_vars/site_local.yml"
    (tmp_path / "none.list").touch()
    site = {"root": str(tmp_path / "site"), "sources": str(tmp_path / "none.list")}
    settings = yaml.safe_load(variables.read_text()) | {"vclust_site": site}
    if modules:  # another interpreter than Ansible's own: the work is a module's
        settings["ansible_python_interpreter"] = "/usr/bin/python3"
    variables.write_text(yaml.safe_dump(settings))
    (tmp_path / "x.ini").write_text(ini(f"User: alice:{HASH}"))
    mapping = {
        "hardware": {"number_of_nodes": 1},
        "software": {"name": "x", "users": [{"name": "alice", "password_hash": HASH}]},
    }
    (tmp_path / "given.yml").write_text(json.dumps({"vclust_request": mapping}))
    words = {
        "vclust": ["vclust", "-vvv", "create", "x.ini"],
        "file": [
            "ansible-playbook",
            "-vvv",
            "--diff",
            "playbooks/create_vcluster.yml",
            "-e",
            "request=x.ini",
        ],
        "mapping": [
            "ansible-playbook",
            "-vvv",
            "--diff",
            "playbooks/create_vcluster.yml",
            "-e",
            "@given.yml",
        ],
    }[form]
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if HASH.encode() in line or b"HhHhHhHhHh" in line:
                    seen.append(line.replace(b"\0", b" ").decode(errors="replace"))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / words[0], *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{sysconfig.get_path('purelib')}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    finally:
        ended.set()
        thread.join()
    assert (tmp_path / "site/state.db").exists(), done  # the request was registered
    shown = done.stdout + done.stderr
    assert "resolve : Find the packages" in shown
    assert ("module_args" in shown) == modules, "a module's arguments are shown"
    assert "HhHhHhHhHh" not in shown
    assert seen == []
    for path in (tmp_path / "site").rglob("*"):
        if path.is_file() and not path.name.startswith("state.db"):
            assert b"HhHhHhHhHh" not in path.read_bytes(), path
