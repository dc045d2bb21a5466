"""Configuration: frozen dataclasses, filled from a TOML preset, then from flags.

    config = load_preset(TrainConfig, Path(__file__).parent / "presets", default="tiny-wan")

reads `presets/tiny-wan.toml` or what `--preset` names, and puts flags such as `--rollout.group-size 8` on
top. A preset is sparse: what it does not name keeps the default of the dataclass. A module that defines a
configuration imports no torch, so that `--help` answers at once.
"""

import contextlib
import copy
import dataclasses
import difflib
import io
import json
import sys
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import tyro

from phys4d.runtime.errors import UserError

C = TypeVar("C")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, else the known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def load(config_class: type[C], preset: Path | None = None, args: Sequence[str] | None = None) -> C:
    """Build a configuration from defaults, then a TOML file, then flags.

    Args:
        config_class: frozen dataclass; its fields may be such dataclasses. A field without a default must be
            set by the preset; a table may set some fields of a nested default and keep the others.
        preset: TOML file, or None for the defaults.
        args: flags; None takes those of the command line.

    Raises:
        UserError: the file is missing or no TOML, a key or flag is unknown, or a value is of the wrong type
            or refused by `__post_init__`.
    """
    config = (
        from_toml(config_class, preset) if preset is not None else _build(config_class, {}, "", "defaults")
    )
    return _apply_flags(config, list(sys.argv[1:] if args is None else args), description=None)


def load_preset(
    config_class: type[C], folder: Path, *, default: str, args: Sequence[str] | None = None
) -> tuple[C, str]:
    """`load` with the preset taken from the flag `--preset NAME` (in `folder`) or `--preset FILE.toml`.

    Returns:
        The configuration and the preset's name (the file's stem).
    """
    args = list(sys.argv[1:] if args is None else args)
    name = default
    for index, word in enumerate(args):
        if word == "--preset":
            if index + 1 == len(args):
                raise UserError("--preset needs a name or a TOML file")
            name = args[index + 1]
            del args[index : index + 2]
            break
        if word.startswith("--preset="):
            name = word.removeprefix("--preset=")
            del args[index]
            break
    names = sorted(path.stem for path in folder.glob("*.toml"))
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"no preset {name!r}{suggestion(name, names)}")
    description = (
        f"Presets (--preset NAME or FILE.toml): {', '.join(names)}. Defaults below are of {path.stem}."
    )
    return _apply_flags(from_toml(config_class, path), args, description=description), path.stem


def from_toml(config_class: type[C], path: Path) -> C:
    """Build a configuration from a TOML file; what it does not name keeps its default."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no TOML: {error}") from None
    return _build(config_class, values, "", str(path))


def from_mapping(config_class: type[C], values: Mapping[str, Any], source: str) -> C:
    """`from_toml` for values that were read elsewhere; `source` names the place in errors."""
    return _build(config_class, values, "", source)


def to_toml(config: Any) -> str:
    """Write a configuration as TOML that `from_toml` reads back to an equal one. None is written `"none"`."""
    return "\n".join(_toml_lines(config, table="")) + "\n"


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _build(
    config_class: type[C], values: Mapping[str, Any], where: str, source: str, base: C | None = None
) -> C:
    """Set the fields named in `values`; the others are those of `base`, else the defaults of the class."""
    annotations = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, config_class))}
    for key in values:
        if key not in fields:
            raise UserError(f"unknown key {where + key!r} in {source}{suggestion(key, fields)}")
    converted = {}
    for name, field in fields.items():
        annotation, default = annotations[name], _default(field) if base is None else getattr(base, name)
        if name not in values:
            if default is dataclasses.MISSING:
                raise UserError(f"{where + name!r} has no default and is missing in {source}")
            converted[name] = default
        elif _is_config(annotation):
            if not isinstance(values[name], Mapping):
                raise UserError(f"{where + name} in {source} must be a table, got {values[name]!r}")
            inner = None if default is dataclasses.MISSING else default
            converted[name] = _build(annotation, values[name], f"{where}{name}.", source, inner)
        else:
            converted[name] = _convert(values[name], annotation, f"{where}{name} in {source}")
    try:
        return config_class(**converted)
    except ValueError as error:
        table = f"[{where[:-1]}] of " if where else ""
        raise UserError(f"{table}{source}: {error}") from None


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _convert(value: Any, annotation: Any, where: str) -> Any:
    """Check a TOML value against a field's type; lists become tuples, strings paths, integers floats."""
    origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        if type(None) in parameters and value in ("none", None):
            return None
        for option in parameters:
            if option is not type(None):
                with contextlib.suppress(UserError):
                    return _convert(value, option, where)
    elif origin is Literal:
        if value in parameters:
            return value
        raise UserError(f"{where} must be one of {', '.join(map(repr, parameters))}, got {value!r}")
    elif origin is tuple and isinstance(value, list):
        if len(parameters) == 2 and parameters[1] is Ellipsis:
            return tuple(_convert(v, parameters[0], f"{where} [{i}]") for i, v in enumerate(value))
        if len(value) == len(parameters):
            pairs = zip(value, parameters, strict=True)
            return tuple(_convert(v, p, f"{where} [{i}]") for i, (v, p) in enumerate(pairs))
    elif origin is list and isinstance(value, list):
        return [_convert(v, parameters[0], f"{where} [{i}]") for i, v in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        return {k: _convert(v, parameters[1], f"{where} [{k}]") for k, v in value.items()}
    elif annotation is Path and isinstance(value, str):
        return Path(value)
    elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif annotation is Any or (annotation in (bool, int, str) and type(value) is annotation):
        return value
    expected = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    raise UserError(f"{where} must be {expected}, got {value!r}")


def _toml_lines(config: Any, table: str) -> list[str]:
    plain, nested = [], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            name = f"{table}.{field.name}" if table else field.name
            nested += ["", f"[{name}]", *_toml_lines(value, name)]
        else:
            plain.append(f"{field.name} = {_toml_value(value)}")
    return plain + nested


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"a configuration holds TOML values only, got {type(value).__name__}")


def _flags(config: Any, start: str = "--") -> list[str]:
    flags = []
    for field in dataclasses.fields(config):
        name = start + field.name.replace("_", "-")
        value = getattr(config, field.name)
        flags += _flags(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return flags


def _tables(config: Any, start: str = "") -> dict[str, Mapping[str, Any]]:
    """Fields that hold names and values, not empty, by their place: `reward.sources`."""
    found: dict[str, Mapping[str, Any]] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= _tables(value, f"{start}{field.name}.")
        elif isinstance(value, Mapping) and value:
            found[start + field.name] = value
    return found


def _without_tables(config: C, names: Collection[str], start: str = "") -> C:
    """The configuration with some tables empty, unchecked: other values may belong to theirs."""
    changed = copy.copy(config)
    for field in dataclasses.fields(typing.cast(Any, config)):
        value, name = getattr(config, field.name), start + field.name
        if dataclasses.is_dataclass(value):
            object.__setattr__(changed, field.name, _without_tables(value, names, f"{name}."))
        elif name in names:
            object.__setattr__(changed, field.name, {})
    return changed


def _apply_flags(config: C, args: list[str], description: str | None) -> C:
    program = Path(sys.argv[0]).name
    if sys.modules["__main__"].__spec__ is not None:
        program = f"python -m {sys.modules['__main__'].__spec__.name}"
    complaint = io.StringIO()
    # tyro takes the names in a table for flags, so that no others could be given: a flag replaces the table.
    tables = _tables(config)
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in args if word.startswith("--")}
    is_help = not {"-h", "--help"}.isdisjoint(args)
    if description is not None and tables:
        told = ", ".join(f"--{name.replace('_', '-')} {dict(table)}" for name, table in tables.items())
        description += f" What they have besides, which such a flag replaces: {told}."
    try:
        with contextlib.redirect_stderr(complaint):
            result, unknown = tyro.cli(
                type(config),
                default=_without_tables(config, [name for name in tables if is_help or name in flags]),
                args=args,
                prog=program,
                description=description,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_without_box(complaint.getvalue())) from None
    if unknown:
        flag, is_flag = unknown[0].partition("=")[0], unknown[0].startswith("--")
        hint = suggestion(flag.replace("_", "-"), _flags(config)) if is_flag else "; --help lists the options"
        raise UserError(f"unknown option {flag!r}{hint}")
    return result


def _without_box(text: str) -> str:
    """The message of tyro's error box in one line, without frame and pointer to --help."""
    lines = [line.strip("│ \n") for line in text.splitlines()]
    kept = []
    for line in lines:
        if set(line) <= set("─╭╮╰╯"):
            if kept:
                break
        elif not line.startswith(("╭", "╰")):
            kept.append(line)
    return " ".join(" ".join(kept).split()) or "bad command line; see --help"
