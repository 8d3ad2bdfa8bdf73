"""Writes the small, flat TOML files of this folder: tables, arrays of tables, scalars and flat lists."""

import json


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a JSON string without \u escapes is a TOML string
    return repr(value)


def dump(table, comment):
    """The text of `table`: scalars and flat lists first, then a section for each dict or list of dicts."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"{k} = {_value(v)}" for k, v in table.items() if not _is_section(v)]
    for key, section in table.items():
        if not _is_section(section):
            continue
        many = isinstance(section, list)
        for entry in section if many else [section]:
            lines += ["", f"[[{key}]]" if many else f"[{key}]"]
            lines += [f"{k} = {_value(v)}" for k, v in entry.items() if v is not None]
    return "\n".join(lines) + "\n"


def _is_section(value):
    return isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
