"""The command.  Also when the folder is given to Python, as in `python tests/testbed/chain up`."""

import sys
from pathlib import Path


def main() -> int:
    # A folder run by its path is not a package yet.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from chain import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
