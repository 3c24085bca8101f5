"""What guests, hosts and users wrote is shown, stored and logged as plain text: no escape sequence, no markup."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anode import NODE

from vclust_py import request, timing
from vclust_py.cli import progress, runner, tables
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.guest.console import Watch, take
from vclust_py.request.values import shown
from vclust_py.run import CommandError, run
from vclust_py.site import PROJECT, Site, clusters, records
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState
from vclust_py.site.store import Store
from vclust_py.text import DETAIL, LINE, plain

ESCAPES = {
    "clipboard (OSC 52)": "\x1b]52;c;ZXZpbA==\x07",
    "title": "\x1b]0;evil\x1b\\",
    "colour and screen": "\x1b[2J\x1b[31m",
    "C1 CSI": "\x9b31m",
    "C1 OSC": "\x9d52;c;eA==\x9c",
    "DEL": "a\x7fb",
    "bell": "\x07",
    "overwriting": "failed\rready ",
    "backspaces": "bad\b\b\bok!",
    "bidi": "\u202egnp.exe\u2066\u2069",
    "invisible": "a\u200b\u200d\u2060\ufeffb",
    "lines of Unicode": "a\u2028b\u2029c\x85d",
    "tags": "a\U000e0041\U000e007fb",
    "half a surrogate": "a\udc9bb",
    "NUL": "a\0b",
}
MARKUP = [
    "[/bold]",
    "[link=https://evil.example]x[/link]",
    "[bold red]x",
    "[/]",
    "[@click=app.quit]x",
    ":skull:",
    "[[[",
]
EVERY = [*ESCAPES.values(), *MARKUP]

root = pytest.mark.skipif(os.geteuid() != 0, reason="the site's state is root's")


def fit(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("text", EVERY)
def test_plain(text: str) -> None:
    made = plain(text, 1000, lines=True)
    assert fit(made)
    assert plain(made, 1000, lines=True) == made
    made.encode()
    if text in MARKUP:
        assert made == text


def test_plain_is_cut_by_characters_and_says_so() -> None:
    assert plain("é" * 100, 20) == "é" * 10 + "… (90 more characters)"
    assert plain("\x1b" * 100, 20) == "\\x1b" * 5 + "… (95 more characters)"
    assert plain("a\nb", 20) == "a\\nb"
    assert plain("a\nb", 20, lines=True) == "a\nb"
    begun = time.process_time()
    assert len(plain("\x1b" * 10**8, 4000)) < 4100
    assert time.process_time() - begun < 1
    assert shown("\x1b" * 10**6).startswith("'\\x1b")


@pytest.mark.parametrize(
    "kind", [VclustError, CapacityError, lambda text, hint: RequestError([text] * 50, hint)]
)
@pytest.mark.parametrize("text", [*EVERY, "x" * 10**6, "é\n" * 10**5, "\U0010ffff" * 5000, "", "\x1b" * 5000])
def test_no_error_is_raw_or_long(kind: Callable[..., VclustError], text: str) -> None:
    for hint in (None, "do this", text):
        error = kind(text, hint)
        assert fit(str(error))
        assert len(str(error).encode()) < 4096
        if hint == "do this":
            assert str(error).endswith("\n  hint: do this")


def test_very_many_problems_are_counted() -> None:
    error = RequestError([f"x.ini:{number}: wrong" for number in range(10_000)])
    assert error.problems[0] == "x.ini:0: wrong"
    assert error.problems[-1] == f"and {10_000 - len(error.problems) + 1} more"
    assert len(RequestError(["a", "b"]).problems) == 2


def test_the_errors_of_commands(tmp_path: Path) -> None:
    script = tmp_path / "x"
    script.write_text("".join(f"{text}\n" for text in ESCAPES.values() if "\udc9b" not in text) + "y" * 10**6)
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", 'cat "$1" >&2; exit 1', "sh", script])
    assert fit(str(caught.value))
    assert len(str(caught.value).encode()) < 4096


# From a node's console to the terminal ----------------------------------------------------------------------------


def a_cluster(store: Store) -> Cluster:
    text = "[Hardware]\nNumberOfNodes: 1\n[Software]\nName: x\n"
    clusters.register(store, request.load(text, "x.ini"))
    return clusters.get(store, "x")


def said(lines: list[bytes], store: Store) -> tuple[list[dict[str, Any]], Watch]:
    """Let `ready` read these lines and record them in a real state; the rows that a display reads."""
    console = b"".join(line + b"\r\n" for line in lines)
    watch = Watch(NODE, lambda position: console[position:], 0.0, NodeState.STARTED)
    cluster = a_cluster(store)
    with timing.phase(store, cluster, "install") as record:
        record._last = _Never()  # type: ignore[assignment]  # no row is left out for coming too soon
        for word, rest in watch.read():
            take(watch, word, rest, record)
        if watch.state == "failed":
            record.node("n1", 0.0, 1.0, watch.detail)
            record.report(f"failed: {watch.detail.splitlines()[0]}", node="n1")
    return records.progress(store, "x"), watch


class _Never(dict[str, tuple[float, str]]):
    def get(self, key: str, default: Any = None) -> Any:
        return 0.0, ""


def hostile_lines() -> list[bytes]:
    texts = [text.replace("\r", " ").encode("utf-8", "replace") for text in EVERY]
    raw = [b"\x9b31m", b"\xff\xfe", b"\x1b]52;c;eA==\x07", b"\xc2\x9b31m", b"x" * 10**5]
    return [
        line
        for text in [*texts, *raw]
        for line in (
            b"vclust: progress " + text + b" 1/2",
            b"vclust: installer " + text,
            b"vclust: took " + text + b" 1.00",
        )
    ]


@root
def test_a_console_is_stored_as_plain_text(tmp_path: Path) -> None:
    store = Store(Site(root=tmp_path / "site"))
    rows, watch = said([*hostile_lines(), b"vclust: failed \x1b[31m\x9b [/bold] " + b"y" * 10**5], store)
    assert len(rows) > 20
    for row in rows:
        assert row["message"].isprintable()
        assert len(row["message"].encode()) <= LINE + 40
    assert watch.state == "failed"
    described = describe(store, "x")[0]
    outcome = described["node_phases"][0]["outcome"]
    assert fit(outcome)
    assert len(outcome.encode()) <= DETAIL + 40
    for byte in ("\x1b", "\x9b", "\x7f", "\u202e"):
        assert byte not in json.dumps(described)


@root
@pytest.mark.parametrize(
    "line",
    [
        b"progress unpack " + b"9" * 4000 + b"/1",
        b"progress unpack 1/" + b"9" * 40,
        b"progress unpack 9223372036854775808/9223372036854775808",
        "progress unpack \u0661/\u0662".encode(),
        "progress unpack \u00b2/\u00b3".encode(),
        b"took unpack " + b"9" * 400 + b".00",
        "took unpack \u0661.\u0661\u0661".encode(),
        b"ready up=" + b"9" * 4000 + b" packages=" + b"9" * 400,
        b"progress unpack -1/-1",
        b"took " + b"x" * 50 + b" 1.00",
    ],
)
def test_numbers_on_a_console(tmp_path: Path, line: bytes) -> None:
    """Too large for SQLite, or digits of other scripts: no traceback, and nothing that is no number of ours."""
    rows, watch = said([b"vclust: " + line], Store(Site(root=tmp_path / "site")))
    assert all(0 <= row["done"] <= 2**53 and 0 <= row["total"] <= 2**53 for row in rows)
    assert watch.took == {}


@root
def test_counts_of_hosts_are_bounded(tmp_path: Path) -> None:
    store = Store(Site(root=tmp_path / "site"))
    with timing.phase(store, a_cluster(store), "distribute") as record:
        record.report("x\x1b", 10**400, -(10**400))
        record.report_all([{"node": "h", "message": "\x9b", "done": 2**64, "total": 2**70}])
    assert [(row["message"], row["done"], row["total"]) for row in records.progress(store, "x")] == [
        ("x\\x1b", 2**53, 0),
        ("\\x9b", 2**53, 2**53),
    ]


@root
def test_failures_are_stored_as_plain_text(tmp_path: Path) -> None:
    store = Store(Site(root=tmp_path / "site"))
    cluster = a_cluster(store)
    with pytest.raises(OSError, match="x"), timing.phase(store, cluster, "create"):
        raise OSError("x\x1b]52;c;eA==\x07" + "y" * 10**6)
    described = describe(store, "x")[0]
    assert fit(described["detail"])
    assert len(described["detail"].encode()) < 4096
    assert fit(described["phases"][0]["outcome"])


ROWS = [
    {"phase": "install", "node": f"n{number}", "message": text, "done": 1, "total": 2}
    for number, text in enumerate(EVERY)
]


def test_plain_display(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.display(["install"], live=False) as shown_display:
        shown_display.phase("install")
        shown_display.progress(ROWS)
    assert fit(capsys.readouterr().err)


DRAW = """
import sys, time, json
from vclust_py.cli.progress import display
rows = json.loads(sys.stdin.readline())
with display(["request", "install", "ready"], live=True) as shown:
    shown.phase("install")
    for row in rows:
        shown.progress([row])
        time.sleep(0.02)
    time.sleep(0.6)
"""


def test_live_display_in_a_terminal() -> None:
    """Of escape sequences only those that the display itself makes: colours, cursor, erasing."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DRAW],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "60"},
    )
    os.close(slave)
    assert process.stdin is not None
    process.stdin.write(json.dumps(ROWS).encode() + b"\n")
    process.stdin.close()
    output = b""
    while select.select([master], [], [], 30)[0]:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    assert process.wait(10) == 0, output.decode(errors="replace")[-2000:]
    os.close(master)
    text = output.decode()
    assert "[/bold]" in text
    assert "[link=https://evil.example]x[/link]" in text
    assert ":skull:" in text
    for sequence in (
        "\x1b]52",
        "\x1b]0;",
        "\x1b]8;",
        "\x1b[2J",
        "\x9b",
        "\x9d",
        "\x07",
        "\x7f",
        "\b",
        "\u202e",
        "\u200b",
    ):
        assert sequence not in text, repr(sequence)


@pytest.mark.parametrize("tty", [True, False])
def test_tables(monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    class Out(io.StringIO):
        def isatty(self) -> bool:
            return tty

    out = Out()
    monkeypatch.setattr(sys, "stdout", out)
    text = " ".join(EVERY)
    cluster = {
        "name": text,
        "state": text,
        "detail": text,
        "created": 0.0,
        "seen": 0.0,
        "ready_nodes": 1,
        "ends": 1.0,
        "removed": None,
        "owner": text,
        "homes": True,
        "updates": {"updates": [text], "security": [text], "time": 0.0},
        "snapshots": [{"tag": text, "created": 0.0, "bytes": None, "nodes": [text]}],
        "strategy": text,
        "cache": {},
        "estimate": {"seconds": {text: 1.0}, "errors": {text: 1.0}},
        "request": {"hardware": {"number_of_nodes": 1, "cpus": 1, "ram": text}},
        "nodes": [
            {
                "name": text,
                "address": text,
                "host": text,
                "accelerator": text,
                "state": text,
                "seen": 0.0,
                "start": "boot",
                "start_detail": text,
            }
        ],
        "phases": [{"phase": text, "seconds": 1.0, "bytes": 1, "outcome": text}],
        "slowest_node": text,
        "node_phases": [{"phase": text, "node": text, "seconds": 1.0}],
        "logs": [{"name": text, "path": text, "time": 0.0}],
    }
    plan = {
        "site": text,
        "reason": text,
        "placement": {text: text},
        "addresses": {},
        "accelerators": {text: text},
        "unreachable": {text: text},
        "hosts": {
            text: {
                "state": "drain",
                "facts": {"cpus": text, "memory": 1, "memory_free": 1},
                "age": 1.0,
                "nodes": 1,
            }
        },
        "disk": 1,
        "disk_asked": 1,
        "cache": {},
        "packages": 1,
        "download": 1,
        "build": 1,
        "send": 1,
        "base_there": True,
        "layer_there": False,
        "python": False,
        "verdicts": [{"digest": text, "reason": text}],
        "requests": {"recorded": 1, "next_choice": None},
        "quota": [{"whose": text, "what": "nodes", "limit": 2, "used": 1, "asked": 1}],
        "estimate": {"seconds": {text: 1.0}, "unknown": [text], "errors": {}, "medians": [text]},
    }
    tables.show_list([cluster])
    tables.show_cluster(cluster)
    tables.show_plan(plan)
    row = {
        "time": 0.0,
        "site": text,
        "who": text,
        "via": text,
        "action": "x",
        "cluster": text,
        "detail": text,
    }
    tables.show_audit([row], sites=True)
    left = {"told": text}
    told = {"site": text, "manager": text, "hosts": [], "leftovers": [left], "authority": {}}
    tables.show_hosts(told, title=True, first=True)
    tables.show_snapshots(cluster)
    volume = {
        "site": text,
        "name": text,
        "owner": text,
        "size": 1,
        "host": text,
        "cluster": text,
        "keep": True,
    }
    tables.show_volumes([volume], several=True)
    homes = {"site": text, "owner": text, "users": {text: 1000}, "size": 1, "clusters": [text]}
    tables.show_homes([homes], several=True)
    tables.show_rank([{"rank": 1, "frequency": 1, "size": 1, "score": 1, "packages": [text]}])
    made = out.getvalue()
    assert not set(made) & set("\x07\x7f\b\r\x9b\x9d\u202e\u200b\0")
    assert "\x1b]" not in made
    assert "[/bold]" in made.replace("\n", "")


# Ansible and modules --------------------------------------------------------------------------------------------


def test_what_ansible_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"[ERROR]: {text}\n" for text in ESCAPES.values()) + "x" * 10**6
    for tasks in (0, 3):
        reason = runner._reason(text, tasks, "/x\x1b[31m")
        assert fit(reason)
        assert len(reason.encode()) < 4096
    outcome = runner.Outcome()
    event = {
        "event": "runner_on_failed",
        "event_data": {
            "host": "h",
            "task_action": "vclust_place",
            "res": {"msg": text + "\x1b", "exit_code": 3},
        },
    }
    runner._take(event, outcome, *[lambda *said: None] * 4)
    assert outcome.exit_code == 3
    assert fit(outcome.failure)
    assert len(outcome.failure.encode()) < 4096


def test_a_module_that_fails_on_an_odd_file(tmp_path: Path) -> None:
    from vclust_py import module

    told: dict[str, Any] = {}

    class Failed(Exception):
        pass

    class Fake:
        params: dict[str, Any] = {"site": {"root": str(tmp_path)}}  # noqa: RUF012
        check_mode = False

        def exit_json(self, **values: Any) -> None:
            raise AssertionError

        def fail_json(self, msg: str, **values: Any) -> None:
            told.update(values, msg=msg)
            raise Failed

    def work(session: Session, params: dict[str, Any], check: bool) -> dict[str, Any]:
        raise FileNotFoundError(2, "No such file", "/x\x1b]52;c;eA==\x07" + "y" * 10**5)

    with pytest.raises(Failed):
        module.run_module(Fake(), work)  # type: ignore[arg-type]
    assert fit(told["msg"])
    assert len(told["msg"].encode()) < 4096


@root
def test_the_command_quotes_odd_arguments(tmp_path: Path) -> None:
    """As a shell's pattern may find them."""
    for words in (
        ["destroy", "\x1b[31m"],
        ["create", "\x1b]0;x\x07.ini"],
        ["\x1b[2J"],
        ["list", "\x9b31m"],
        ["-i", "\x1b", "list"],
    ):
        done = subprocess.run(
            [Path(sys.executable).parent / "vclust", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert fit(done.stdout + done.stderr), done
