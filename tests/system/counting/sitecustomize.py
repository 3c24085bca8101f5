"""Python reads this file at its start where the folder is on PYTHONPATH: it writes down what is done twice too easily.

A line for each: process, what, and on what; to the file that VCLUST_TEST_COUNTS names.  Forks are processes of their
own.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_LOG = os.open(os.environ["VCLUST_TEST_COUNTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _count(what: str, which: object) -> None:
    os.write(_LOG, f"{os.getpid()} {what} {which}\n".encode())


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "sqlite3.connect" and str(arguments[0]).endswith("state.db"):
        _count("database", arguments[0])
    elif event == "open" and "/images/" in str(arguments[0]) and str(arguments[0]).endswith(".json"):
        _count("manifest", arguments[0])


def _wrapped(module: ModuleType, name: str, what: str) -> None:
    function: Callable[..., Any] = getattr(module, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        _count(what, arguments[0] if what == "host" else "")
        return function(*arguments, **options)

    setattr(module, name, counted)


_WRAPPED = {"vclust_py.request.checks": ("checked", "request"), "libvirt": ("open", "host")}


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps these functions as soon as their modules are there, before anybody takes them by name."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in _WRAPPED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _wrapped(module, *_WRAPPED[name])

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.addaudithook(_audit)
sys.meta_path.insert(0, _Finder())
