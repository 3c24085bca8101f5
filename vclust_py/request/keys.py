"""What is said of a key of a request: its names, its type, its default, its line of documentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from vclust_py.request.values import Kind


@dataclass(frozen=True, eq=False)
class Key:
    """Stands beside the field of `model` that holds the key's value; `keys_of` adds the names of its place."""

    ini: str
    """Its name in the INI form; a key whose type has parts may be repeated there, YAML has a list."""
    kind: Kind[Any]
    doc: str
    """One line, with `code` in backticks."""
    default: Any = None
    derived: Callable[[Mapping[str, Any]], Any] | None = None
    """Instead of `default`: from the values of the keys before it, by their YAML names."""
    unset: str = ""
    """The default in words, where it is not a value to be written down."""
    required: bool = False
    """Every request has a value of its own, there is no default.  With `unset` a file may leave it out all the same."""
    words: bool = False
    """Several words in one value; YAML may have a list."""
    unique: str = ""
    """Of a repeated key, the part that no two values may share; empty for the whole value."""
    later: bool = False
    """It came when requests were stored already: its default is not part of the canonical form, so that the digests of
    earlier requests stay as they are."""
    yaml: str = ""
    """Its name in the YAML form, where that is not the field's."""
    field: str = ""
    section: str = ""

    @property
    def repeated(self) -> bool:
        return bool(self.kind.parts)

    @property
    def several(self) -> bool:
        """Whether the value is a tuple."""
        return self.repeated or self.words

    def absent(self, values: Mapping[str, Any]) -> Any:
        """The value where none is given; `values` are those of the keys before it."""
        if self.derived is not None:
            return self.derived(values)
        return () if self.several else self.default

    def write(self, value: Any) -> Any:
        """The canonical form, plain data; None for no value."""
        if value is None:
            return None
        return [self.kind.write(item) for item in value] if self.several else self.kind.write(value)

    def restore(self, form: Any) -> Any:
        """The value of a canonical form, unchecked."""
        if self.several:
            return tuple(self.kind.restore(item) for item in form)
        return self.kind.restore(form)


def keys_of(part: type, section: str) -> tuple[Key, ...]:
    """The keys of a dataclass of `model`, in the order of its fields."""
    keys = []
    for field, hint in get_type_hints(part, include_extras=True).items():
        (key,) = hint.__metadata__
        keys.append(replace(key, section=section, field=field, yaml=key.yaml or field))
    return tuple(keys)
