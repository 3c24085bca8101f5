"""What pip installs beside the Python packages of pyproject.toml: all that Ansible reads, with its folders."""

from pathlib import Path

from setuptools import setup

_SHARED = (
    "ansible.cfg",
    "examples",
    "inventories",
    "library",
    "metapackages",
    "playbooks",
    "plugins",
    "roles",
)
"""Goes to `share/vclust`, which is the project's folder then (`vclust_py.site.PROJECT`)."""


def _data_files() -> list[tuple[str, list[str]]]:
    folders = {"share/man/man1": ["docs/vclust.1"]}
    for name in _SHARED:
        for path in sorted((Path(name), *Path(name).rglob("*"))):
            if path.is_file() and "__pycache__" not in path.parts:
                folders.setdefault(str(Path("share/vclust", path.parent)), []).append(str(path))
    return sorted(folders.items())


setup(data_files=_data_files())
