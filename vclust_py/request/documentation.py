"""The table of keys in docs/request.md.  To renew it: `python -m vclust_py.request.documentation docs/request.md`."""

import sys
from pathlib import Path

from vclust_py.request.keys import Key
from vclust_py.request.model import SECTIONS

_BEGIN = "<!-- This table is generated: python -m vclust_py.request.documentation docs/request.md -->\n"
_END = "<!-- End of the table. -->\n"


def table() -> str:
    lines = ["| key | YAML | default | is |", "|---|---|---|---|"]
    for section, keys in SECTIONS.items():
        lines.append(f"| **[{section.title()}]** | `{section}:` | | |")
        lines += [_row(key) for key in keys]
    return "\n".join(lines) + "\n"


def _row(key: Key) -> str:
    star = "*" if key.repeated else ""
    name = f"{key.yaml}: [{{{', '.join(key.kind.parts)}}}]" if key.repeated else key.yaml
    default = key.unset or ("must be given" if key.required else f"`{key.write(key.default)}`")
    return f"| `{key.ini}`{star} | `{name}` | {default} | {key.doc} |"


def renewed(page: str) -> str:
    """The page with the table as it is now."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return head + _BEGIN + table() + _END + tail


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
