"""Read by every Python at its start that has this folder in PYTHONPATH: `libvirt.open` leads to hosts' test driver.

Only once libvirt is imported: other programs start as fast as without.  VCLUST_TEST_START: seconds that a domain takes
to start.
"""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Libvirt:
    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != "libvirt":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_translate(module: ModuleType) -> None:
            import translate

            load(module)
            module.open = translate.opener(module.open, float(os.environ.get("VCLUST_TEST_START", 0)))  # type: ignore[attr-defined]

        spec.loader.exec_module = load_and_translate  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Libvirt())
