"""Strategies and checks of the fuzz run for what users, meta packages and nodes write.

`CASES` maps a name to a strategy and a check of one value.  A check raises only on a real failure: another exception
than VclustError, a message over 4 KB, something that got through which must not.
"""

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from anode import NODE
from hypothesis import strategies as st

from vclust_py import metapackages, request
from vclust_py.cli.progress import step
from vclust_py.errors import RequestError, VclustError
from vclust_py.guest.console import Watch, take
from vclust_py.request.model import KEYS
from vclust_py.site.clusters import Cluster
from vclust_py.site.states import ClusterState, NodeState
from vclust_py.text import DETAIL, LINE
from vclust_py.timing import Recorder

MOST = 4096
"""Bytes of a message."""

_NASTY = st.sampled_from(
    [
        "", " ", "0", "-1", "1e9", "9" * 50, "9" * 5000, "0x10", "\u0663", "NaN", "inf", "true", "null", "~",
        "2024-01-01", "1:2:3", "*", "**", "../../etc/passwd", "/dev/zero",
        "-oProxyCommand=x", "--option", "a b", "a\tb", "a\x00b",
        "\x1b]52;c;x\x07", "\x9b31m", "\u202e", "\ufeff", "\ud800", "{{ 1 }}", "{% x %}", "{# x #}", "$(id)", "`id`",
        "; id", "| id", "&a", "*a", "!!python/object:os.system", "<a>&b;", "]]>", "'", '"', "\\", "%d%d", "%s", "%n",
        "%99999999d", "vc%02d", "[Hardware]", "#", "a #b", "x" * 300, "é", "日本", "\U0010ffff", "1GB", "512MB", "2XB",
        "99999999999999GB", "192.168.1.0/24", "::1/64", "0.0.0.0/0", "any", "root", "root:*", "alice:*",
        "alice:$6$a$b", "mpi", "gcc", "gcc-", "g++", "linux-image-amd64", "8h", "once",
    ]
)  # fmt: skip
_TEXT = st.text(max_size=40)
_VALUE = _NASTY | _TEXT
_KEY = st.sampled_from([key.ini for key in KEYS] * 3 + ["User*", "Nothing", "", "RAM ", "ram"])
_SNAKE = st.sampled_from([key.yaml for key in KEYS] * 3 + ["user", "ssh_key", "nothing", "", "<<"])
_SECTION = st.sampled_from(
    ["[Hardware]", "[Software]", "[hardware]", "[", "[]", "[X]", "---", "hardware:", "%YAML 1.1"]
)

_LINES = st.tuples(_KEY, st.sampled_from([": ", "=", ":", " "]), _VALUE).map("".join) | _SECTION | _VALUE
_INI = st.lists(_LINES, max_size=12).map(lambda lines: "[Hardware]\nNumberOfNodes: 2\n" + "\n".join(lines))

_MARKS = st.sampled_from(
    [
        "- ",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "? ",
        "| ",
        ">",
        "'",
        '"',
        "# ",
        "&a ",
        "*a ",
        "!x ",
        "!!int ",
    ]
)
_YAML = st.lists(_MARKS | _SNAKE | _VALUE, max_size=25).map("".join)
_YAML_KEYS = st.lists(st.tuples(_SNAKE, _VALUE), max_size=8).map(
    lambda pairs: (
        "hardware:\n  number_of_nodes: 1\nsoftware:\n"
        + "".join(f"  {key}: {value}\n" for key, value in pairs)
    )
)

_SCALAR = (
    _VALUE
    | st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([400, 5000]).map(lambda digits: 10**digits)
    | st.floats()
    | st.sampled_from([1e308, b"x", object(), {1}, ("a",)])
)
_TREE: st.SearchStrategy[Any] = st.recursive(
    _SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_SNAKE | _VALUE, inner, max_size=4),
    max_leaves=8,
)
_MAPPING = st.one_of(
    _TREE,
    st.fixed_dictionaries(
        {
            "hardware": st.dictionaries(_SNAKE, _TREE, max_size=4) | _TREE,
            "software": st.dictionaries(_SNAKE, _TREE, max_size=6) | _TREE,
        }
    ),
)

_META_KEY = st.sampled_from(
    ["description", "packages", "debconf", "steps", "secrets", "check", "nothing", "on", "1"]
)
_META = st.lists(st.tuples(_META_KEY, _VALUE), max_size=8).map(
    lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs)
) | st.lists(_MARKS | _META_KEY | _VALUE, max_size=25).map("".join)

_WORD = st.sampled_from(
    [b"installer", b"progress", b"took", b"installed", b"ready", b"failed", b"readyish", b""]
)
_REST = st.sampled_from(
    [
        b" up=3.4", b" unpack 1/2", b" unpack 99999999999999999999999/1", b" x " + b"9" * 4000 + b"/1", b" unpack 1.25",
        b" x 1.25", b" \xd9\xa1/\xd9\xa2", b" " + b"9" * 300 + b".00", b" [/bold]", b" [link=x]y",
        b" \x1b]52;c;eA==\x07",
        b"\r", b"\xff", b" " + b"x" * 5000, b" seed: no disk",
    ]
) | st.binary(max_size=40)  # fmt: skip
_PREFIX, _END = st.sampled_from([b"", b"[   0.1] "]), st.sampled_from([b"\n", b"\r\n", b""])
_PIECE = st.tuples(_PREFIX, st.just(b"vclust: "), _WORD, _REST, _END).map(b"".join) | st.binary(max_size=60)
_CONSOLE = st.lists(st.lists(_PIECE, max_size=5).map(b"".join), max_size=4)


def _told(error: VclustError) -> None:
    text = str(error)
    assert 0 < len(text.encode()) <= MOST, len(text)
    assert all(c.isprintable() or c == "\n" for c in text), text
    if isinstance(error, RequestError):
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)


def _sound(made: request.Request) -> None:
    """What was accepted means the same in every form, and holds nothing that could get out of its place."""
    mapping = request.to_mapping(made)
    assert request.from_mapping(mapping, "x") == made
    assert request.load(yaml.safe_dump(mapping), "x.yml") == made
    for text in _texts(mapping):
        assert re.fullmatch(r"[A-Za-z0-9 %$./:@_+=*-]*", text), text
        assert not text.startswith("-"), text
    assert len(set(made.hostnames)) == made.hardware.number_of_nodes


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _load(source: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        try:
            made = request.load(text, source)
        except RequestError as error:
            _told(error)
        else:
            _sound(made)

    return check


def check_mapping(value: Any) -> None:
    try:
        made = request.from_mapping(value, "vclust_request")
    except RequestError as error:
        _told(error)
    else:
        _sound(made)


_folder = tempfile.TemporaryDirectory(prefix="vclust-fuzz-")


def check_meta_package(text: str) -> None:
    path = Path(_folder.name, "demo.yml")
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        made = metapackages.load("demo", [path.parent])
    except RequestError as error:
        _told(error)
    else:
        assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in made.packages)
        assert all(re.fullmatch(r"[a-z][a-z0-9._-]*", secret.name) for secret in made.secrets)
        assert "\n" not in made.description + "".join(made.debconf) + (made.check or "")


class _Rows(Recorder):
    """Makes the rows that the real one would write."""

    def report(self, message: str, done: int = 0, total: int = 0, *, node: str = "") -> None:
        *_, message, done, total, _ = self._row(node, message, done, total, 0.0)
        assert message.isprintable()
        assert len(message.encode()) <= LINE + 40
        assert 0 <= done < 2**63
        assert 0 <= total < 2**63
        assert step({"message": message, "done": done, "total": total}).isprintable()


_CLUSTER = Cluster(1, "x", None, 1, "vc0", 1, ClusterState.CREATED, "", "", {}, "", 0.0, None, ())  # type: ignore[arg-type]


def check_console(pieces: list[bytes]) -> None:
    """Pieces as they come, through what `ready` reads and stores of them."""
    said = bytearray()
    watch = Watch(NODE, lambda position: bytes(said[position:]), 0.0, NodeState.STARTED)
    record = _Rows(None, _CLUSTER, "install")  # type: ignore[arg-type]
    for piece in pieces:
        said += piece
        for word, rest in watch.read():
            take(watch, word, rest, record)
    assert watch.state in ("started", "installer", "installed", "ready", "failed")
    assert len(watch.rest) <= MOST
    assert set(watch.took) <= {"unpack", "configure"}
    assert all(0 <= seconds < 10**6 for seconds in watch.took.values())
    watch.detail = watch.detail or watch.last_words()
    _told(VclustError(f"x: n1: {watch.detail}"))
    assert len(watch.detail.encode()) <= DETAIL + 40


CASES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "request, INI": (_INI, _load("x.ini")),
    "request, YAML": (_YAML_KEYS | _YAML, _load("x.yml")),
    "request, any form": (_INI | _YAML | _YAML_KEYS | st.text(), _load("x")),
    "request, mapping": (_MAPPING, check_mapping),
    "meta package": (_META, check_meta_package),
    "console": (_CONSOLE, check_console),
}
