"""Fields whose value is one of several dataclasses, chosen by name on the command line and in presets.

Such a field is a union of frozen dataclasses, each with its own ``name``::

    ranker: ContextAwareParameters | PointwiseParameters | LinearParameters = ContextAwareParameters()

``--ranker linear`` picks the dataclass, and ``--ranker.features product`` sets one of its fields. With the marker
``FLAT`` the flags of the settings do not begin with the name of the field::

    dataset: Annotated[Scenes | Csv, FLAT] = Scenes()       # --dataset csv --annotations captions.csv
"""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any

import tyro

FLAT = tyro.conf.arg(name="")
"""Marks a choice whose settings are flags of their own: ``--annotations`` instead of ``--dataset.annotations``."""


@dataclass(frozen=True)
class Choice:
    """A field that is a union of named dataclasses.

    Attributes:
        path: dotted name of the field, from the root of the configuration ("train.ranker").
        options: the dataclasses by name.
        default: name of the option that holds when none is chosen.
        flat: whether the flags of its settings leave out the name of the field.
    """

    path: str
    options: dict[str, type[Any]]
    default: str
    flat: bool

    @property
    def prefix(self) -> str:
        """What the dotted names of its settings begin with: "train.ranker.", or "train." for a flat one."""
        if not self.flat:
            return f"{self.path}."
        parent = self.path.rpartition(".")[0]
        return f"{parent}." if parent else ""

    def list_settings(self, option: str) -> list[str]:
        """The settings of an option, dotted names without the prefix."""
        return list(list_names(self.options[option]))

    def has_setting(self, option: str, name: str) -> bool:
        """Whether a dotted name, from the root, is a setting of the option."""
        return name.startswith(self.prefix) and name.removeprefix(self.prefix) in self.list_settings(option)

    def implied_by(self, name: str) -> str | None:
        """The option, with ``implied = True``, that a setting of this dotted name chooses because no other has it.

        So ``--import-images`` needs no ``--dataset arrays``.
        """
        # With two owners, a setting says nothing about which of them is meant.
        having = [option for option in self.options if self.has_setting(option, name)]
        if len(having) == 1 and getattr(self.options[having[0]], "implied", False):
            return having[0]
        return None

    def claims(self, name: str) -> bool:
        """Whether a dotted name belongs to this choice: to any of its options, or at least by its prefix."""
        if not self.flat:
            return name.startswith(self.prefix)
        # Without a prefix of its own, only the known settings can be told from other flags.
        return any(self.has_setting(option, name) for option in self.options)


def find_choices(config_type: type[Any], prefix: str = "") -> Iterator[Choice]:
    """All choices in a configuration, those of nested dataclasses included."""
    hints = typing.get_type_hints(config_type, include_extras=True)  # with the marker FLAT
    for field in fields(config_type):
        path = f"{prefix}{field.name}"
        options = find_options(hints[field.name])
        if options:
            flat = FLAT in getattr(hints[field.name], "__metadata__", ())
            # Choices inside an option are not supported: they would depend on another choice.
            yield Choice(path, options, default_of(field).name, flat)
        elif is_dataclass(hints[field.name]):
            yield from find_choices(typing.cast(type[Any], hints[field.name]), f"{path}.")


def find_options(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses of a union by name; empty when the hint is no union of named dataclasses."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return {}
    members = typing.get_args(hint)
    # X | None and unions of plain types are ordinary fields.
    if not all(is_dataclass(member) and hasattr(member, "name") for member in members):
        return {}
    return {member.name: member for member in members}


def list_names(config_type: type[Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of a dataclass's fields, those of nested dataclasses included."""
    hints = typing.get_type_hints(config_type)
    for field in fields(config_type):
        if is_dataclass(hints[field.name]):
            yield from list_names(typing.cast(type[Any], hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def default_of(field: Field[Any]) -> Any:
    """The default of a field; tyro's mark for a missing value when it has none."""
    if field.default is not MISSING:
        return field.default
    return tyro.MISSING if field.default_factory is MISSING else field.default_factory()


def make_defaults(config_type: type[Any]) -> Any:
    """An instance with the default values, whose own ``__post_init__`` has not run.

    The command line starts from it. Checks come later, when the values that the user gives are in: a default may be
    invalid by itself ("give --qrels, or --plausible, or both").
    """
    return copy_unchecked(config_type, {field.name: default_of(field) for field in fields(config_type)})


def choose(config: Any, chosen: Mapping[str, type[Any]], prefix: str = "") -> Any:
    """A copy of a configuration, unchecked, with the defaults of the chosen dataclasses in place.

    Args:
        config: a dataclass instance.
        chosen: dotted names of choices, and the dataclass of each.
        prefix: dotted name of ``config`` itself, with a dot behind.
    """
    values = {}
    for field in fields(config):
        path, value = f"{prefix}{field.name}", getattr(config, field.name)
        if path in chosen:
            # The defaults of the option, whatever the field held before.
            value = make_defaults(chosen[path])
        elif is_dataclass(value) and any(name.startswith(f"{path}.") for name in chosen):
            value = choose(value, chosen, f"{path}.")
        values[field.name] = value
    return copy_unchecked(type(config), values)


def copy_unchecked(config_type: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance with these values, made without ``__init__`` and ``__post_init__``."""
    # Frozen dataclasses refuse plain assignment, so the attributes are set on the object itself.
    instance = object.__new__(config_type)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance
