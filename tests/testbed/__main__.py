"""The command: `python tests/testbed KIND up|down|ssh|status …`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The project itself, which need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import chain.cli
from emulated.cli import Emulated
from emulated.kinds import KINDS
from many.cli import Many

from vclust_py.errors import VclustError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/testbed", description="Hosts to test with, all on this machine (root)."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS.values():
        Emulated(kind).add(kinds)
    Many().add(kinds)
    chain.cli.add(kinds)
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return int(arguments.act(arguments))
    except VclustError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
