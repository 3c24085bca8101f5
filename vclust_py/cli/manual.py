"""The page vclust(1) for man(1), made from the parser.  To renew it: `python -m vclust_py.cli.manual docs/vclust.1`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

_EXAMPLES = """\
vclust init lab.ini
vclust plan lab.ini
vclust create lab.ini
vclust ssh lab -- hostname
vclust scp results.tar 2.lab:
vclust destroy lab"""


def page(parser: argparse.ArgumentParser) -> str:
    """The page as man(7) has it; no date and no version, so that it changes with the parser alone."""
    lines = [
        '.\\" Made by: python -m vclust_py.cli.manual docs/vclust.1',
        ".TH VCLUST 1",
        ".SH NAME",
        f"vclust \\- {_escaped(str(parser.description).rstrip('.').lower())}",
        ".SH SYNOPSIS",
        *_synopsis(parser, "vclust"),
        ".SH DESCRIPTION",
        "A short request goes in; a cluster of virtual machines with exactly the packages asked for comes out.",
        "The keys of a request are in docs/request.md, and as comments in what",
        ".B vclust init",
        "writes.",
        ".SH OPTIONS",
        *_arguments(parser),
        ".SH COMMANDS",
    ]
    for name, command in _commands(parser, "vclust"):
        lines += [
            f".SS {_escaped(name)}",
            _escaped(str(command.description)),
            ".PP",
            *_synopsis(command, name),
        ]
        lines += _arguments(command)
    title, _, codes = str(parser.epilog).partition(": ")
    lines += [f".SH {_escaped(title.upper())}"]
    for code, _, text in (word.partition(" ") for word in codes.rstrip(".").split(", ")):
        lines += [".TP", code, _escaped(text)]
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        "NO_COLOR",
        "Where it is set and not empty, errors on a terminal have no colours.",
        ".SH EXAMPLES",
        ".EX",
        *map(_escaped, _EXAMPLES.splitlines()),
        ".EE",
        ".SH SEE ALSO",
        ".BR ansible-playbook (1),",
        ".BR ssh (1),",
        ".BR scp (1)",
    ]
    return "\n".join(lines) + "\n"


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that do something, with all their words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                inner = list(_commands(command, f"{name} {word}"))
                yield from inner or [(f"{name} {word}", command)]


def _synopsis(parser: argparse.ArgumentParser, name: str) -> list[str]:
    """How it is called.  Not argparse's own line, which differs between versions of Python."""
    if parser.usage is not None:
        return [f".B {_escaped(name)}", _escaped(parser.usage.removeprefix(name).strip())]
    words = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            word = " ".join([f"\\fB{_escaped(action.option_strings[0])}\\fR", *_value(action)])
            words.append(word if action.required else f"[{word}]")
        else:
            (word,) = _value(action)
            several = f"{word}..." if action.nargs == "+" else word
            words.append(f"[{word}]" if action.nargs == "?" else several)
            if isinstance(action, argparse._SubParsersAction):
                words.append("...")
    return [f".B {_escaped(name)}", " ".join(words)]


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        options = [f"\\fB{_escaped(option)}\\fR" for option in action.option_strings]
        names = [" ".join([option, *_value(action)]) for option in options] or _value(action)
        lines += [".TP", ", ".join(names), _escaped(str(action.help).replace("%%", "%"))]
    return lines


def _value(action: argparse.Action) -> list[str]:
    """What the value of an argument is called; nothing for an option without a value."""
    if action.nargs == 0:
        return []
    if action.metavar is not None:
        return [f"\\fI{_escaped(str(action.metavar))}\\fR"]
    return [f"{{{','.join(map(_escaped, action.choices or ()))}}}"]


def _escaped(text: str) -> str:
    """Text as roff has it: nothing of it is a request or an escape of its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    from vclust_py.cli import make_parser

    Path(sys.argv[1]).write_text(page(make_parser()), encoding="utf-8")
