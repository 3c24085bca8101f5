"""`python -m vclust_py.awx`: write awx/bundle.json, check it, or print one for another repository, to be imported."""

import argparse
import json
import sys

from vclust_py.awx.bundle import IMAGE, URL, Bundle, bundle
from vclust_py.awx.rules import problems
from vclust_py.site import PROJECT

PATH = PROJECT / "awx/bundle.json"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vclust_py.awx", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where it is not as it would be made"
    )
    parser.add_argument("--url", help="print the bundle with this git repository as the project's")
    parser.add_argument("--branch", default="", help="of that repository; its default one")
    parser.add_argument("--image", default=IMAGE, help="of the execution environment; %(default)s")
    arguments = parser.parse_args(words)
    made = bundle(arguments.url or URL, arguments.branch, arguments.image)
    found = problems(made)
    if (
        not arguments.url
        and arguments.check
        and not (PATH.is_file() and PATH.read_text("utf-8") == text(made))
    ):
        found.append(f"{PATH.name}: is not as it would be made; python -m vclust_py.awx writes it")
    for problem in found:
        print(f"awx: {problem}", file=sys.stderr)
    if found:
        return 1
    if arguments.url:
        print(text(made), end="")
    elif not arguments.check:
        PATH.write_text(text(made), encoding="utf-8")
    return 0


def text(made: Bundle) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
