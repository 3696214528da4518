"""`validation.html`: the whole report in one file, with nothing to load from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from components.validate import findings
from components.validate.findings import data_uri, known
from segmodels.data.bands import Bands, view
from segmodels.data.folder import IGNORE_INDEX, SPLITS, DatasetInfo, read_label
from segmodels.tasks.semantic.pictures import overlay

if TYPE_CHECKING:
    import pandas as pd

    from segmodels.data.validation.checks import Outcome

LISTED = 200
ROW, BAR, LEFT, WIDTH = 34, 8, 150, 720
FLOOR = 1e-5  # where the logarithmic axis begins


def render(
    info: DatasetInfo,
    report: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    manifest: pd.DataFrame,
    data: Path,
    *,
    overlays: int,
) -> str:
    """Return the page as HTML.

    Args:
        info: The dataset's description.
        report: The content of `validation.json`.
        outcomes: Every check's outcome.
        manifest: The manifest, for sizes and samples.
        data: The dataset folder.
        overlays: How many samples are shown.
    """
    labelled = manifest.dropna(subset=["label"])
    images = dict(zip(labelled["label"], labelled["image"], strict=True))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        info=info,
        report=report,
        outcomes=outcomes,
        failed=[o for o in outcomes if not o.passed],
        samples=sum(report["splits"].values()),
        sizes=_sizes(manifest),
        chart=frequency_chart(info, report["class_frequency"]),
        findings=findings.pictures(outcomes, info, images, data),
        pictures=_pictures(info, manifest, data, overlays),
        listed=LISTED,
    )


def frequency_chart(info: DatasetInfo, frequency: Mapping[str, Mapping[str, float]]) -> Markup:
    """Bars of each class's share of the labelled pixels, per split, on a logarithmic axis; inline SVG."""
    splits = [split for split in SPLITS if split in frequency]
    height = 30 + ROW * info.num_classes
    decades = [10.0**-k for k in range(5, -1, -1)]
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Class frequencies per split">']
    for value in decades:
        x = _x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="18" x2="{x:.1f}" y2="{height - 8}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="12" text-anchor="middle">{value * 100:g} %</text>')
    for index, entry in enumerate(info.classes):
        y = 26 + ROW * index
        color = "#{:02x}{:02x}{:02x}".format(*entry.color)
        parts.append(f'<rect class="swatch" x="0" y="{y + 5}" width="14" height="14" rx="3" fill="{color}"/>')
        parts.append(f'<text class="name" x="22" y="{y + 17}">{escape(_short(entry.name))}</text>')
        for place, split in enumerate(splits):
            parts.append(_bar(frequency[split].get(entry.name, 0.0), split, y + place * (BAR + 1)))
    return Markup("".join([*parts, "</svg>"]))


def _bar(value: float, split: str, y: float) -> str:
    title = f"<title>{split}: {value:.4%}</title>"
    if value <= 0:
        return f'<text class="none" x="{LEFT + 4}" y="{y + BAR}">{title}none in {split}</text>'
    width = max(2.0, _x(value) - LEFT)
    return f'<rect class="bar {split}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2">{title}</rect>'


def _x(value: float) -> float:
    share = 1 - math.log10(max(value, FLOOR)) / math.log10(FLOOR)
    return LEFT + share * (WIDTH - LEFT - 30)


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _sizes(manifest: pd.DataFrame) -> str:
    sizes = manifest[["width", "height"]].dropna().drop_duplicates().sort_values(["width", "height"])
    if not len(sizes):
        return "none"
    first, last = (f"{row['width']}×{row['height']}" for row in (sizes.iloc[0], sizes.iloc[-1]))
    return first if len(sizes) == 1 else f"{first} to {last}"


def _pictures(info: DatasetInfo, manifest: pd.DataFrame, data: Path, count: int) -> list[dict[str, Any]]:
    """Return samples spread evenly over each split, image and overlay; only those that can be drawn."""
    same_size = (manifest["width"] == manifest["label_width"]) & (manifest["height"] == manifest["label_height"])
    good = manifest[manifest["readable"] & (same_size.fillna(False) if info.num_classes else True)]
    by_split = [rows for split in SPLITS if len(rows := good[good["split"] == split])]
    pictures: list[dict[str, Any]] = []
    for place, rows in enumerate(by_split):
        share = count // len(by_split) + (place < count % len(by_split))
        chosen = sorted({round(i) for i in np.linspace(0, len(rows) - 1, share + 2)[1:-1]})
        pictures += [_picture(info, rows.iloc[index], data) for index in chosen]
    return pictures


def _picture(info: DatasetInfo, row: Mapping[str, Any], data: Path) -> dict[str, Any]:
    image = view(Bands.of(info.image).read(data / row["image"]))
    if not info.num_classes:
        return {
            "id": row["id"],
            "split": row["split"],
            "image": data_uri(image),
            "overlay": "",
            "classes": [],
            "void": 0.0,
        }
    label = read_label(data / row["label"])
    classes = known(label, info)
    held = [info.classes[i] for i in np.unique(classes) if i != IGNORE_INDEX]
    return {
        "id": row["id"],
        "split": row["split"],
        "image": data_uri(image),
        "overlay": data_uri(overlay(image, classes, info.palette, alpha=0.6)),
        "classes": held,
        "void": float((classes == IGNORE_INDEX).mean()),
    }
