"""A request as text, in the two forms that a user may write: for tests that read it again."""

import yaml

from vclust_py.request.model import BY_YAML, Request, to_mapping


def to_yaml(request: Request) -> str:
    return yaml.safe_dump(to_mapping(request), sort_keys=False, width=2**30)


def to_ini(request: Request) -> str:
    lines: list[str] = []
    for section, content in to_mapping(request).items():
        lines.append(f"[{section.title()}]")
        for name, form in content.items():
            key = BY_YAML[name]
            if key.repeated:
                lines += [f"{key.ini}: {':'.join(item[part] for part in key.kind.parts)}" for item in form]
            else:
                lines.append(f"{key.ini}: {' '.join(form) if key.words else form}")
    return "\n".join(lines) + "\n"
