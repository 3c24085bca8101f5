"""`vclust init`: a request to begin with, every key of it with its documentation (`vclust_py.request.model`)."""

import argparse
import json
import os
import pwd
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from vclust_py import request
from vclust_py.arguments import file
from vclust_py.cli import messages
from vclust_py.errors import RequestError
from vclust_py.request import accounts
from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, KEYS, SECTIONS
from vclust_py.request.values import Wrong, shown

_ASKED = ("number_of_nodes", "cpus", "ram", "packages", "meta_packages", "users")
"""The keys that somebody at a terminal is asked for, by their YAML names; all others are options."""
_WIDTH = 100

Values = Mapping[str, list[str]]
"""By a key's YAML name what was given for it: several texts of a repeated key, the words of one with words."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(root=False)
    parser.usage = "vclust init [FILE] [--KEY VALUE]..."
    parser.add_argument(
        "file",
        nargs="?",
        type=file,
        default=Path("cluster.ini"),
        metavar="FILE",
        help="to write; YAML when it ends in .yml or .yaml (default: cluster.ini)",
    )
    for key in KEYS:
        # A key that may be repeated has a name in the plural in YAML alone.
        name = key.yaml.removesuffix("s") if key.repeated else key.yaml
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"key_{key.yaml}",
            action="append",
            type=_typed(key),
            metavar="VALUE",
            help=_text(key).replace("%", "%%") + ("; may be repeated" if key.several else ""),
        )


def init(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    if os.path.lexists(path):
        raise RequestError([f"{path}: got a file that is there, expected the name of a new one"])
    values: dict[str, list[str]] = {}
    for key in KEYS:
        given: list[list[str]] | None = getattr(arguments, f"key_{key.yaml}")
        if given is None and key.yaml in _ASKED and sys.stdin.isatty() and sys.stderr.isatty():
            given = _ask(key)
        if given:
            # As with other commands, the last of an option counts, unless it may be repeated.
            values[key.yaml] = [word for words in (given if key.several else given[-1:]) for word in words]
    if "ssh_keys" not in values and (users := values.get("users")):
        values["ssh_keys"] = _own_keys(users[0].partition(":")[0])
    text = written(values, yaml=path.suffix.lower() in (".yml", ".yaml"))
    request.load(text, str(path))  # raises RequestError for values that do not go together
    try:
        # It may hold hashes of passwords.
        with open(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as opened:
            opened.write(text)
    except OSError as error:
        raise RequestError([f"{path}: got {error.strerror}, expected a file that can be written"]) from error
    name = shlex.quote(str(path))
    text = f"{path} is written: vclust plan {name} shows what it takes, vclust create {name} makes it"
    print(messages.as_called(text))
    return 0


def written(values: Values, *, yaml: bool) -> str:
    """A request file with these values, the other keys as comments with their defaults."""
    lines = ["# A request for a virtual cluster (docs/request.md).  A key after a # has its default."]
    for section, keys in SECTIONS.items():
        lines += ["", f"{section}:" if yaml else f"[{section.title()}]"]
        indent = "  " if yaml else ""
        for key in keys:
            lines += textwrap.wrap(
                _text(key), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
            given = values.get(key.yaml, [])
            if not given and key.required and not key.unset:
                given = [str(key.write(key.default))]
            for line in (_yaml_lines if yaml else _ini_lines)(key, given):
                lines.append(f"{indent}{'' if given else '# '}{line}")
    return "\n".join(lines) + "\n"


def _ini_lines(key: Key, given: list[str]) -> list[str]:
    texts = given if key.repeated else [" ".join(given)]
    return [f"{key.ini}: {text or _default(key)}".rstrip() for text in texts or [""]]


def _yaml_lines(key: Key, given: list[str]) -> list[str]:
    if key.several:
        return [f"{key.yaml}: {json.dumps(given)}"]
    text = given[0] if given else _default(key)
    plain = not given or "integer" in key.kind.schema.get("type", "")
    return [f"{key.yaml}: {text if plain else json.dumps(text)}".rstrip()]


def _default(key: Key) -> str:
    """The default as a value, where there is one to be written down."""
    return "" if key.unset or key.several else str(key.write(key.default))


def _text(key: Key) -> str:
    default = key.unset or ("" if key.required else str(key.write(key.default)))
    return (key.doc + (f" (default: {default})" if default else "")).replace("`", "")


def _words(key: Key, text: str) -> list[str]:
    """What was typed for a key, checked by its type.  Raises Wrong."""
    text = text.strip()
    if key.yaml == "users" and ":" not in text:
        text += ":*"
    words = text.split() if key.words else [text]
    if not words:
        raise Wrong(key.kind.expected)
    for word in words:
        key.kind(word)
    return words


def _typed(key: Key) -> Callable[[str], list[str]]:
    def convert(text: str) -> list[str]:
        try:
            return _words(key, text)
        except Wrong as wrong:
            raise argparse.ArgumentTypeError(_mistake(key, text, wrong)) from None

    return convert


def _mistake(key: Key, text: str, wrong: Wrong) -> str:
    got = accounts.shown_user(text) if key.kind.secret else shown(text)
    return f"got {got}, expected {wrong.expected}"


def _ask(key: Key) -> list[list[str]] | None:
    """The answer at the terminal; None where the default is taken."""
    hint = "; a name alone for login by key only" if key.yaml == "users" else ""
    print(
        f"{textwrap.fill(f'{key.ini}: {_text(key)}{hint}', _WIDTH)}\n> ", end="", file=sys.stderr, flush=True
    )
    while line := sys.stdin.readline():
        if not line.strip():
            return None
        try:
            return [_words(key, line)]
        except Wrong as wrong:
            print(f"{_mistake(key, line.strip(), wrong)}\n> ", end="", file=sys.stderr, flush=True)
    raise KeyboardInterrupt  # the end of the input, Ctrl-D


def _own_keys(user: str) -> list[str]:
    """The public keys of whoever runs this, for `user` to log in by; unreadable and odd ones are left out."""
    home = Path(pwd.getpwuid(int(os.environ.get("SUDO_UID") or os.getuid())).pw_dir)
    keys = []
    for path in sorted(home.glob(".ssh/id_*.pub")):
        try:
            text = f"{user}:{path.read_text(encoding='utf-8').strip()}"
            BY_YAML["ssh_keys"].kind(text)
        except (OSError, UnicodeError, Wrong):
            continue
        keys.append(text)
    return keys
