# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was given to a playbook, taken literally: an adapter to `vclust_py.arguments`."""

from __future__ import annotations

DOCUMENTATION = """
name: vclust_argument
author: vclust contributors
version_added: "0.1"
short_description: A value given to a playbook, never treated as a template
description:
  - Reads a variable as it was given with C(-e), by a survey or in the inventory, and checks it by its type.
  - The variable is not templated, at any depth. What looks like a template in it is refused by its type or stays
    text.
  - A playbook that takes a variable from people must not name it elsewhere.
options:
  _terms:
    description: Names of variables; the first one that is given counts.
    type: list
    elements: str
    required: true
  type:
    description: What it must be.
    type: str
    choices:
      - count
      - digest
      - duration
      - files
      - flag
      - hosts
      - lock
      - machines
      - moment
      - nodes
      - path
      - person
      - reference
      - request
      - site
    required: true
  default:
    description: The value where none of the variables is given; without it that is an error.
    type: raw
  blank:
    description:
      - Take a blank text, or nothing, for a variable that is not given. AWX hands over the questions of a survey that
        nobody has answered.
      - Not where the default is all of something, and the blank may be a mistake.
    type: bool
    default: false
requirements:
  - vclust_py on the controller
notes:
  - The value of the type C(reference), a cluster's C(NAME) or C(SITE/NAME), is a mapping with C(site), which is
    C(any) where none was given, and C(name).
  - The value of the type C(request) is a mapping, or the name of a file where only C(request) is given. Of a survey it
    is made of the text C(vclust_request), which is a request in the INI or YAML form, or of the answers
    C(vclust_request_number_of_nodes), C(vclust_request_ram) and so on.
  - The types C(lock) and C(path) are names of files, relative to where the command was given; the value is the lock's
    content and the absolute path.
  - The value of the type C(moment) is in seconds since 1970, that of C(duration) in seconds.
"""

EXAMPLES = """
- name: Remove the cluster that was named
  vclust_cluster:
    name: "{{ lookup('vclust_argument', 'name', type='reference').name }}"
    state: absent

- name: Show the caches whose digest begins so
  vclust_caches:
    digest: "{{ lookup('vclust_argument', 'digest', type='digest', default='') }}"
"""

RETURN = """
_list:
  description: The value.
  type: list
  elements: raw
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.parsing.vault import EncryptedString
from ansible.plugins.lookup import LookupBase

from vclust_py import arguments
from vclust_py.errors import RequestError
from vclust_py.request import answers

_DEPTH = 20
"""Levels of mappings and lists; a request has three."""


def literal(value: Any, depth: int = _DEPTH) -> Any:
    """The same in Python's own types: without Ansible's mark that text may be a template."""
    if not depth:
        raise AnsibleLookupError(f"got more than {_DEPTH} levels, expected a plain value")
    if isinstance(value, Mapping):
        return {literal(key, depth - 1): literal(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item, depth - 1) for item in value]
    if isinstance(value, str | EncryptedString):
        return "".join(str(value))
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=None, direct=kwargs)
        variables, kind = variables or {}, self.get_option("type")
        try:
            if kind == "request" and (asked := answers.request_of(_given(variables, answers.NAMES))):
                return [asked]
            given = _given(variables, terms)
            if self.get_option("blank"):
                given = {name: value for name, value in given.items() if not answers.blank(value)}
            if not given and "default" in kwargs:
                return [kwargs["default"]]
            if not given:
                raise AnsibleLookupError(
                    f"{' or '.join(map(str, terms))}: got nothing, expected -e {terms[-1]}=…"
                )
            name, value = next(iter(given.items()))
            if kind == "lock":
                # A relative name is relative to where the command was given, as that of the request is.
                file = arguments.checked(name, "path", value)
                return [arguments.locked(Path(os.environ.get("PWD", "."), file))]
            value = arguments.checked(name, kind, value)
            return [str(Path(os.environ.get("PWD", "."), value)) if kind == "path" else value]
        except RequestError as error:
            raise AnsibleLookupError(str(error)) from error


def _given(variables: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the variables that there are, taken literally."""
    return {str(name): literal(variables[name]) for name in names if name in variables}
