"""docs/request.md has the table that the definitions give."""

import subprocess
import sys
from pathlib import Path

from vclust_py.request import documentation
from vclust_py.request.model import KEYS
from vclust_py.site import PROJECT

PAGE = PROJECT / "docs" / "request.md"


def test_the_page_is_as_it_would_be_made() -> None:
    page = PAGE.read_text(encoding="utf-8")
    renew = f"python -m vclust_py.request.documentation {PAGE.relative_to(PROJECT)}"
    assert documentation.renewed(page) == page, f"to renew it: {renew}"
    assert renew in page


def test_every_key_has_a_row() -> None:
    rows = documentation.table().splitlines()
    assert all(row.count("|") == 5 for row in rows)
    for key in KEYS:
        (row,) = (row for row in rows if row.startswith(f"| `{key.ini}`"))
        assert f" | `{key.yaml}" in row
        assert row.endswith(f" | {key.doc} |")


def test_rows_of_each_kind() -> None:
    rows = documentation.table().splitlines()
    assert rows[2] == "| **[Hardware]** | `hardware:` | | |"
    assert rows[3] == "| `NumberOfNodes` | `number_of_nodes` | must be given | how many nodes, 1 to 4096 |"
    assert "| `RAM` | `ram` | `512MB` | memory of a node, such as `2GB`; 256MB at least |" in rows
    assert any(row.startswith("| `User`* | `users: [{name, password_hash}]` | root only | ") for row in rows)


def test_the_command_renews_the_table_and_leaves_the_rest(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = tmp_path / "request.md"
    stale.write_text(page.replace(documentation.table(), "| old |\n"), encoding="utf-8")
    assert stale.read_text(encoding="utf-8") != page
    subprocess.run([sys.executable, "-m", "vclust_py.request.documentation", stale], cwd=PROJECT, check=True)
    assert stale.read_text(encoding="utf-8") == page
