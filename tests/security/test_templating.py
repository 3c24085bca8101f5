"""Nothing that is typed is run as a template: the real command, the real playbooks, a site of its own.

Each payload would make a file where it was treated as a template, at any depth and in any step.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.loader import lookup_loader

from vclust_py import arguments
from vclust_py.cli import runner
from vclust_py.errors import RequestError
from vclust_py.site import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded site needs root")

BIN = Path(sys.executable).parent
INTERPRETER = ("-e", f"ansible_python_interpreter={sys.executable}")


@dataclass
class Copied:
    """The project's playbooks and code on a site of their own."""

    path: Path

    @property
    def mark(self) -> Path:
        """What a payload makes when it is run."""
        return self.path / "ran"

    def payloads(self) -> list[str]:
        touch = f"touch {self.mark}"
        return [
            "{{ lookup('pipe', '" + touch + "') }}",
            "{% set x = lookup('pipe', '" + touch + "') %}x",
            "{{ lookup('pipe', '" + touch + "') }}{# x #}",
            "x{{ cycler.__init__.__globals__.os.system('" + touch + "') }}",
            '{{ query("pipe", "' + touch + '") | first }}',
        ]

    def run(self, *argv: str | bytes | Path, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [BIN / os.fsdecode(argv[0]), *argv[1:]],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(self.path), "ANSIBLE_LOCALHOST_WARNING": "false", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )

    def untouched(self, done: "subprocess.CompletedProcess[str]") -> None:
        assert not self.mark.exists(), done
        assert "Traceback" not in done.stdout + done.stderr, done


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    shutil.copytree(PROJECT / "vclust_py", tmp_path / "vclust_py")
    for name in ("ansible.cfg", "playbooks", "roles", "library", "plugins", "examples", "metapackages"):
        (tmp_path / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "inventories/local", tmp_path / "inventories/local")
    variables = tmp_path / "inventories/local/group_vars/site_local.yml"
    settings = yaml.safe_load(variables.read_text()) | {"vclust_site": {"root": str(tmp_path / "site")}}
    variables.write_text(yaml.safe_dump(settings))
    return Copied(tmp_path)


# The command ----------------------------------------------------------------------------------------------------

WORDS: dict[str, Callable[[str], list[str]]] = {
    "show": lambda text: ["show", text],
    "ssh": lambda text: ["ssh", text],
    "ssh, its node": lambda text: ["ssh", "x", text],
    "destroy": lambda text: ["destroy", text],
    "send --to": lambda text: ["send", "/etc/hostname", "--to", text],
    "cache show": lambda text: ["cache", "show", text],
}


@pytest.mark.parametrize("words", WORDS)
def test_words_of_the_command(copied: Copied, words: str) -> None:
    """Refused by their type, before anything is started."""
    for payload in copied.payloads():
        done = copied.run("vclust", *WORDS[words](payload))
        copied.untouched(done)
        assert done.returncode == 2, done
        assert "expected" in done.stderr, done
    for text in ("", "-x", "../x", "a b", "a\nb", "A", "\u0430bc", "x" * 400):
        if words == "send --to" and text == "A":
            continue  # groups of an inventory may be so called
        assert copied.run("vclust", *WORDS[words](text)).returncode == 2, text


FILES: dict[str, Callable[[Path], list[str | Path]]] = {
    "create": lambda path: ["create", path],
    "plan --locked": lambda path: ["plan", PROJECT / "examples/hello-mpi.ini", "--locked", path],
    "cache explain": lambda path: ["cache", "explain", path],
    "send": lambda path: ["send", path],
    "-i": lambda path: ["-i", path.parent, "list"],
}


@pytest.mark.parametrize("words", FILES)
def test_names_of_files(copied: Copied, words: str) -> None:
    """Any name may be there; all of them get as far as a plain one does."""
    lock = '{"suite": 1}'
    text = "[Hardware]\nNumberOfNodes: 1\n[Software]\nName: x\nSite: nowhere\n"
    # Without a slash, so that a file can be called so; Ansible works in the folder of the mark.
    pipe = "{{ lookup('pipe', 'touch ran') }}"
    statement = "{% set x = lookup('pipe', 'touch ran') %}x"
    odd = ["a'b", 'a"b', "a\nb", "a,b", "a b", "\x1b]0;x\x07", "{#", "ü", "@a", "-e"]

    def end(name: str) -> int:
        folder = copied.path / "named" / name
        folder.mkdir(parents=True)
        file = folder / f"{name}.ini"
        file.write_text(lock if "locked" in words else text)
        if words == "-i":
            shutil.copytree(copied.path / "inventories/local", folder, dirs_exist_ok=True)
            file.unlink()
        done = copied.run("vclust", *FILES[words](file))
        copied.untouched(done)
        assert not any(c in done.stdout + done.stderr for c in "\x1b\x07"), done
        return done.returncode

    names = ("plain", pipe, statement, *odd)
    with ThreadPoolExecutor(2) as pool:  # most of a command's time is start-up
        ends = dict(zip(names, pool.map(end, names), strict=True))
    assert set(ends.values()) == {ends["plain"]}, ends


def test_an_inventory_whose_name_ansible_would_expand(copied: Copied) -> None:
    shutil.copytree(copied.path / "inventories/local", copied.path / "$HOME")
    done = copied.run("vclust", "-i", "$HOME", "list")
    assert (done.returncode, "$HOME: got a name with a $" in done.stderr) == (2, True), done


def test_names_that_no_utf_8_can_write(copied: Copied) -> None:
    path = os.fsencode(copied.path) + b"/\xff.ini"
    Path(os.fsdecode(path)).write_text("[Hardware]\nNumberOfNodes: 1\n")
    for words in (["create", path], ["send", path], ["-i", path, "list"]):
        done = copied.run("vclust", *words)
        copied.untouched(done)
        assert (done.returncode, "expected a file name in UTF-8" in done.stderr) == (2, True), done


@pytest.mark.parametrize("locale", ["", "C", "POSIX", "de_DE.ISO-8859-1"])
def test_any_locale(copied: Copied, locale: str) -> None:
    done = copied.run("vclust", "list", LANG="", LC_ALL=locale, LC_CTYPE="", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "no clusters\n"), done


def test_what_the_command_hands_over_stays_text(copied: Copied) -> None:
    """Where a check should miss something: text at every depth is handed over as what it is."""
    book = PROJECT / "playbooks"
    probe = copied.path / "probe.yml"
    probe.write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        '    - ansible.builtin.set_fact: {said: "{{ one }} {{ deep[0].more }}"}\n'
        '    - ansible.builtin.debug: {msg: "{{ said }} {{ one }} {{ deep }}"}\n'
    )
    payload = copied.payloads()[0]
    inventory = copied.path / "hosts.ini"
    inventory.write_text("localhost ansible_connection=local\n")
    outcome = runner.play(
        os.path.relpath(probe, book),
        {"one": payload, "deep": [{"more": payload, "number": 1, "no": None}]},
        inventory=inventory,
    )
    assert outcome.exit_code == 0, outcome
    assert not copied.mark.exists()
    assert outcome.results["ansible.builtin.debug"]["msg"].count(payload) == 4


# The playbooks --------------------------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {"hardware": {"number_of_nodes": 1}, "software": {"name": "x", "site": "nowhere"}}


def request(section: str, key: str, text: object) -> dict[str, Any]:
    return REQUEST | {section: REQUEST[section] | {key: text}}


VARIABLES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "create, request": ("create_vcluster.yml", lambda text: {"request": text}),
    "create, a whole text": ("create_vcluster.yml", lambda text: {"vclust_request": text}),
    "create, a value": (
        "create_vcluster.yml",
        lambda text: {"vclust_request": request("software", "name", text)},
    ),
    "create, a number": (
        "create_vcluster.yml",
        lambda text: {"vclust_request": request("hardware", "number_of_nodes", text)},
    ),
    "create, its site": (
        "create_vcluster.yml",
        lambda text: {"vclust_request": request("software", "site", text)},
    ),
    "create, in a list": (
        "create_vcluster.yml",
        lambda text: {
            "vclust_request": request("software", "users", [{"name": text, "password_hash": text}])
        },
    ),
    "create, a key": ("create_vcluster.yml", lambda text: {"vclust_request": request("software", text, "x")}),
    "create, a text": (
        "create_vcluster.yml",
        lambda text: {"vclust_request": f"[Hardware]\nNumberOfNodes: 1\n[Software]\nName: {text}\n"},
    ),
    "create, an answer": ("create_vcluster.yml", lambda text: {"vclust_request_name": text}),
    "create, an answer of lines": (
        "create_vcluster.yml",
        lambda text: {"vclust_request_name": "x", "vclust_request_ssh_keys": f"\n{text}\n"},
    ),
    "create, who": (
        "create_vcluster.yml",
        lambda text: {"request": str(PROJECT / "examples/hello-mpi.ini"), "awx_user_name": text},
    ),
    "create, the lock": (
        "create_vcluster.yml",
        lambda text: {"request": str(PROJECT / "examples/hello-mpi.ini"), "locked": text},
    ),
    "destroy, name": ("destroy_vcluster.yml", lambda text: {"name": text}),
    "destroy, site": ("destroy_vcluster.yml", lambda text: {"name": f"{text}/x"}),
    "status, name": ("status.yml", lambda text: {"name": text}),
    "status, digest": ("status.yml", lambda text: {"digest": text}),
    "status, history": ("status.yml", lambda text: {"history": text}),
    "send, to": ("send_files.yml", lambda text: {"files": [{"path": "/etc/hostname"}], "to": text}),
    "send, a path": ("send_files.yml", lambda text: {"files": [{"path": text}]}),
    "send, a name": ("send_files.yml", lambda text: {"files": [{"path": "/etc/hostname", "name": text}]}),
    "send, a digest": ("send_files.yml", lambda text: {"files": [{"path": "/etc/hostname", "sha256": text}]}),
    "send, all": ("send_files.yml", lambda text: {"files": text}),
    "site, vclust_reboot": ("site.yml", lambda text: {"vclust_reboot": text}),
}
HARMLESS = ("send, a path",)
"""Any text is a file's name; with no other machine in the inventory nothing is looked for."""
NOT_READ = ("site, vclust_reboot",)
"""Packages come first on a machine that is its own site manager: no task that reads it is reached."""


@pytest.mark.parametrize("which", VARIABLES)
def test_variables_of_playbooks(copied: Copied, which: str) -> None:
    """By plain ansible-playbook, each as JSON on the command line and in a file."""
    playbook, variables = VARIABLES[which]
    more = ["--check"] if playbook == "site.yml" else []
    for number, payload in enumerate(copied.payloads()[:2]):
        given = json.dumps(variables(payload))
        if number:
            (copied.path / "given.yml").write_text(given)
            given = "@given.yml"
        done = copied.run("ansible-playbook", f"playbooks/{playbook}", "-e", given, *more)
        copied.untouched(done)
        if which not in NOT_READ:
            assert (done.returncode == 0) == (which in HARMLESS), done
    if which != "create, the lock":  # read where the request is registered already
        assert not (copied.path / "site/state.db").exists()


@pytest.mark.parametrize("playbook", ["destroy_vcluster.yml", "status.yml"])
def test_an_empty_name_is_no_name(copied: Copied, playbook: str) -> None:
    done = copied.run("ansible-playbook", f"playbooks/{playbook}", "-e", "name=")
    assert done.returncode != 0
    assert (
        "name: got '', expected NAME or SITE/NAME of a cluster; up to 31 of a-z" in done.stdout + done.stderr
    )


def test_playbooks_name_no_variable_of_people() -> None:
    """Every reference goes through the lookup plugin: a name of these in a template would be templated itself."""
    names = r"\b(name|request|locked|site|to|files|digest|history|vclust_request|vclust_reboot|there|awx_user_name)\b"
    import re

    for path in (PROJECT / "playbooks").glob("*.yml"):
        for template in re.findall(r"\{\{(.*?)\}\}", path.read_text(), re.DOTALL):
            words = re.sub(r"'[^']*'|\.\s*\w+|\w+\s*=(?!=)", " ", template)
            assert not re.search(names, words), (path.name, template)


def test_the_plugin_gives_plain_text() -> None:
    lookup_loader.add_directory(str(PROJECT / "plugins/lookup"))
    from ansible.template import is_trusted_as_template, trust_as_template

    plugin = lookup_loader.get("vclust_argument")
    payload = trust_as_template("{{ 1 }}")
    assert is_trusted_as_template(payload)
    nested = trust_as_template("{{ 2 }}")
    (value,) = plugin.run(
        ["vclust_request"], variables={"vclust_request": {"a": [nested, {"b": nested}]}}, type="request"
    )
    assert value == {"a": ["{{ 2 }}", {"b": "{{ 2 }}"}]}
    assert type(value["a"][0]) is str
    assert type(value["a"][1]["b"]) is str


# What hosts and nodes say ----------------------------------------------------------------------------------------


def test_results_of_modules_are_not_templated(copied: Copied) -> None:
    """What a module returns, from a host or a node, is text in every later task, template and loop."""
    payload = copied.payloads()[0]
    (copied.path / "said").write_text(payload)
    (copied.path / "t.j2").write_text("{{ said.stdout }}")
    (copied.path / "results.yml").write_text(
        f"""
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.command: cat {copied.path}/said
      register: said
    - ansible.builtin.set_fact: {{again: "{{{{ said.stdout }}}}"}}
    - ansible.builtin.debug: {{var: said}}
    - ansible.builtin.debug: {{msg: "{{{{ item }}}} {{{{ again }}}} {{{{ lookup('template', 't.j2') }}}}"}}
      loop: "{{{{ said.stdout_lines }}}}"
    - ansible.builtin.fail: {{msg: "{{{{ said.stdout }}}}"}}
      ignore_errors: true
    - ansible.builtin.add_host: {{name: other, groups: cluster_x, said: "{{{{ said.stdout }}}}"}}
    - ansible.builtin.debug: {{msg: "{{{{ hostvars.other.said }}}}"}}
"""
    )
    done = copied.run("ansible-playbook", "-i", "localhost,", "-c", "local", "results.yml", *INTERPRETER)
    assert done.returncode == 0, done.stdout
    copied.untouched(done)


# The types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(arguments.TYPES) - {"path", "key_file", "request", "files"}))
def test_types_take_no_template(kind: str) -> None:
    for text in (
        "{{ x }}",
        "{% x %}",
        "{# x #}",
        "a;b",
        "a\n",
        "$x",
        "`x`",
        "-x",
        "a/b/c",
        "\x1b",
        "x" * 10**5,
        10**100,
    ):
        with pytest.raises(RequestError) as caught:
            arguments.checked("x", kind, text)
        assert len(str(caught.value).encode()) < 4096


@pytest.mark.parametrize("value", [None, [], {}, 1.5, True, b"x", ["a"], {"a": 1}])
def test_types_take_no_other_kind(value: object) -> None:
    for kind in arguments.TYPES:
        if (kind, value) in (("flag", True), ("hosts", ["a"]), ("nodes", ["a"]), ("moment", 1.5)) or (
            kind == "request" and isinstance(value, dict)
        ):
            continue
        with pytest.raises(RequestError):
            arguments.checked("x", kind, value)


def test_a_vaulted_value_is_read(copied: Copied) -> None:
    """Literal is not encrypted: a hash in an inventory may be kept by ansible-vault."""
    (copied.path / "password").write_text("secret")
    vault = ["--vault-password-file", "password"]
    sealed = copied.run("ansible-vault", "encrypt_string", *vault, "nowhere", "--name", "site").stdout
    indented = sealed.replace("\n", "\n    ")
    (copied.path / "given.yml").write_text(
        f"vclust_request:\n  hardware: {{number_of_nodes: 1}}\n  software:\n    name: x\n    {indented}\n"
    )
    done = copied.run("ansible-playbook", "playbooks/create_vcluster.yml", "-e", "@given.yml", *vault)
    assert "Site: got 'nowhere', expected any or one of local" in done.stdout + done.stderr, done
