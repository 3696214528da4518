"""The tables of docs/datasets.md, made of the layouts' own descriptions."""

from __future__ import annotations

from segmodels.data.formats.finding import layouts
from segmodels.data.formats.layout import Layout


def tables() -> str:
    """Return Markdown: the datasets, then the tools and folders, by their keys."""
    public = [one for one in layouts().values() if one.home and one.licence]
    others = [one for one in layouts().values() if not (one.home and one.licence)]
    lines = [
        "| `data.format` | dataset | licence | classes | splits | truth | what tells it |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(one, one.licence) for one in public]
    obtained = [f"- `{one.key}`: {one.obtain}." for one in public if one.obtain]
    lines += ["", "To have them:", "", *obtained] if obtained else []
    lines += ["", "## Tools and folders", ""]
    lines += ["| `data.format` | what it is | classes | splits | truth | what tells it |", "|---" * 6 + "|"]
    lines += [_row(one) for one in others]
    return "\n".join(lines)


def _row(one: Layout, *more: str) -> str:
    title = f"[{one.title}]({one.home})" if one.home else one.title
    truth = ", ".join(("labels", *one.targets))
    cells = [f"`{one.key}`", title, *more, one.classes, one.splits, truth, one.looks_for]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<") for cell in cells) + " |"
