"""Write docs/settings.md from the settings classes, so that the page cannot fall behind the code.

usage: python tools/settings_page.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
SOURCES = {
    "Every service": "services/common/settings.py",
    "Gateway": "gateway/settings.py",
    "Hardware": "services/hardware/settings.py",
    "Trainer": "services/trainer/settings.py",
}
HEAD = """# Settings

Environment variables, read once at the start of a service. `weighbridge up` sets what connects the services
and passes the rest of its own environment on. Times are in seconds, sizes in bytes. This page is written by
`python tools/settings_page.py`.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(part for title, source in SOURCES.items() for part in _section(title, source))])


def _section(title: str, source: str) -> Iterator[str]:
    yield f"## {title}\n\n| | |\n|---|---|"
    tree = ast.parse((ROOT / source).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("Settings" in ast.unparse(base) for base in node.bases):
            yield from _rows(node)
    yield ""


def _rows(settings: ast.ClassDef) -> Iterator[str]:
    for field, text in zip(settings.body, settings.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            variable = f"WEIGHBRIDGE_{ast.unparse(field.target).removesuffix('_s').upper()}"
            words = " ".join(ast.literal_eval(text.value).split()).replace("|", "\\|")
            yield f"| `{variable}` | {words}{_default(field)} |"


def _default(field: ast.AnnAssign) -> str:
    """Return the default in words, where it is a plain one."""
    value = field.value
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        plain = None if value is None else ast.literal_eval(value)
    except ValueError:
        return f" Default: `{ast.unparse(value)}`." if isinstance(value, ast.BinOp) else ""
    return "" if plain in (None, "", ()) else f" Default: `{plain}`."


if __name__ == "__main__":
    PAGE.write_text(page())
