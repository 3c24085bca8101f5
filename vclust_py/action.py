"""Action plugins: a module's work in the process that Ansible has forked for the task anyway.

A module costs ten times as much: it is packed, written, unpacked, and imports everything anew.  That pays only where
the site manager is another machine; `ActionModule` runs the module there.
"""

import contextlib
import copy
import importlib.util
import json
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from vclust_py import inventory, steps
from vclust_py.arguments import checked
from vclust_py.errors import RequestError
from vclust_py.module import perform
from vclust_py.phases import ORDER
from vclust_py.site import Site

_USER = "awx_user_name"
"""The variable with which AWX says who has launched a job."""


def action(plugin: str, *ahead: str) -> type[ActionBase]:
    """The action plugin in file `plugin`, for the module of that name in the project's `library`.

    Ansible asks for it before it forks: what the module imports is there in every task's process, from this task on,
    and what is in the modules `ahead`, as far as this machine has what they need.
    """
    for name in ahead:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    path = Path(plugin)
    return type("ActionModule", (_Action,), {"module": _load(path.parents[2] / "library" / path.name)})


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # noqa: S101 - for mypy
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Action(ActionBase):  # type: ignore[misc]
    _supports_async = True
    module: ModuleType
    """Has `argument_spec()` and `work`, a `vclust_py.module.Work`."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        try:
            self._name_user(task_vars or {})
        except RequestError as error:
            return {"failed": True, "msg": str(error), "exit_code": error.exit_code}
        if not self._works_here(task_vars or {}):
            wrap_async = self._task.async_val and not self._connection.has_native_async
            with self._steps(task_vars or {}):
                result = self._execute_module(task_vars=task_vars, wrap_async=wrap_async)
            return self._named(result, task_vars or {})
        validation = ArgumentSpecValidator(self.module.argument_spec()).validate(_plain(self._task.args))
        if validation.errors.errors:
            unsupported = isinstance(validation.errors[0], UnsupportedError)
            place = f"Unsupported parameters for ({self.module.__name__}) module: " if unsupported else ""
            result = {"failed": True, "msg": f"{place}{validation.errors.msg}"}
        else:
            result = perform(self.module.work, validation.validated_parameters, self._task.check_mode)
        return self._named(remove_values(result, validation._no_log_values), task_vars or {})

    def _steps(self, task_vars: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Shows what a phase on another machine does while it works."""
        phase, arguments = self.module.__name__.removeprefix("vclust_"), self._task.args
        asked = arguments.get("request")
        name = arguments.get("name") or (asked["software"]["name"] if isinstance(asked, Mapping) else "")
        python = str(self._templar.template(task_vars.get("ansible_python_interpreter") or ""))
        if (
            phase not in ORDER
            or self._task.check_mode
            or self._task.async_val
            or self._connection.transport == "local"
            or not (name and os.path.isabs(python))
        ):
            return contextlib.nullcontext()
        root = (arguments.get("site") or {}).get("root") or Site.root
        command = steps.command_line(python, str(root), str(name), phase)
        # A connection of its own: each remembers what it waits for.
        other = copy.copy(self)
        other._connection = copy.copy(self._connection)
        other._connection.become = copy.copy(self._connection.become)

        def shell(command: str) -> str | None:
            try:
                # With an input there is no terminal, as with modules.
                done = other._low_level_execute_command(command, in_data=b"\n")
            except AnsibleError:
                return None  # the module's own failure tells more
            return str(done["stdout"]) if done["rc"] == 0 else None

        host = task_vars["inventory_hostname"]
        return steps.followed(shell, command, lambda line: Display().display(f"{steps.MARK} [{host}] {line}"))

    def _name_user(self, task_vars: Mapping[str, Any]) -> None:
        """Fill `who` in, for every task alike.  The variable is taken as it is: people choose their names."""
        user = task_vars.get(_USER)
        if user and not self._task.args.get("who"):
            self._task.args = {**self._task.args, "who": checked(_USER, "person", "".join(str(user)))}

    @staticmethod
    def _named(result: dict[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The result with the name of the site, which only the inventory knows."""
        if "site_manager" in result:
            site = inventory.site_name(task_vars["inventory_hostname"], task_vars["groups"])
            result["site_manager"] = {**result["site_manager"], "site": site}
        return result

    def _works_here(self, task_vars: Mapping[str, Any]) -> bool:
        """Whether the module would run on this machine, as this user, in this environment, with this Python."""
        if self._connection.transport != "local" or self._task.async_val or any(self._task.environment or ()):
            return False
        if self._connection.become:
            user = self.get_become_option("become_user") or constants.DEFAULT_BECOME_USER
            if constants.BECOME_ALLOW_SAME_USER or user != pwd.getpwuid(os.geteuid()).pw_name:
                return False
        if self._task.delegate_to:
            task_vars = task_vars["ansible_delegated_vars"][self._task.delegate_to]
        interpreter = str(self._templar.template(task_vars.get("ansible_python_interpreter") or ""))
        return _same_interpreter(interpreter, sys.executable)


def _same_interpreter(one: str, other: str) -> bool:
    """Whether both are names of one Python in one folder: its packages are those of the folder's environment."""
    return (
        os.path.dirname(one) == os.path.dirname(other)
        and os.path.exists(one)
        and os.path.samefile(one, other)
    )


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as a module gets them: through JSON, without Ansible's marks on text, vaulted text decrypted."""
    plain: dict[str, Any] = json.loads(json.dumps(arguments, default=str))
    return plain
