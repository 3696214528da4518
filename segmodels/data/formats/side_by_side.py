"""Images and their labels in one folder: `X.jpg` beside `X_mask.png`, as Roboflow's masks and many scripts have it.

Endings of labels are those of the generic folder (`_mask`, `_label`, `_L`, `_gt`, `_seg`, …); so are the codings of
labels and the lists of classes, of which Roboflow's `_classes.csv` (`Pixel Value, Class`) is one.

    train/a.jpg train/a_mask.png train/_classes.csv      with splits
    a.jpg a_mask.png                                     without
"""

from __future__ import annotations

from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.folder import IMAGE_ENDING, LABEL_ENDING, SPLIT_FOLDERS, Pair, read_pairs, stem_of
from segmodels.data.formats.layout import Fit, Job, Layout, Reading


def _folders(root: Path) -> dict[Path, str | None]:
    inner = {d: SPLIT_FOLDERS[d.name.lower()] for d in sorted(root.iterdir()) if d.name.lower() in SPLIT_FOLDERS}
    return {d: s for d, s in inner.items() if d.is_dir() and _labels(d)} or ({root: None} if _labels(root) else {})


def _labels(folder: Path) -> dict[str, Path]:
    """Return stem of an image -> its label, of files directly in the folder whose image lies there, too."""
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    stems = {IMAGE_ENDING.sub("", p.stem) for p in files if not LABEL_ENDING.search(p.stem)}
    endings = (".png", ".bmp", ".tif", ".tiff", ".gif")
    labels = {
        LABEL_ENDING.sub("", p.stem): p for p in files if LABEL_ENDING.search(p.stem) and p.suffix.lower() in endings
    }
    return {name: path for name, path in labels.items() if name in stems}


def _detect(root: Path) -> Fit | None:
    folders = _folders(root)
    if not folders:
        return None
    label = min(_labels(next(iter(folders))).values())
    return Fit(f"{label.relative_to(root).as_posix()} beside its image")


def _read(root: Path, job: Job) -> Reading:
    pairs = []
    for folder, split in _folders(root).items():
        labels = _labels(folder)
        images = (p for p in image_files(folder) if p.parent == folder and not LABEL_ENDING.search(p.stem))
        for image in images:
            name = IMAGE_ENDING.sub("", image.stem)
            if name in labels:
                pairs.append(Pair(split, stem_of(image, folder), image, labels[name]))
            else:
                job.problems.append(f"{image}: has no label; {name}_mask.png is missing: add it, or remove the image")
    return read_pairs(pairs, root, job)


LAYOUT = Layout(
    "side_by_side",
    "images and labels in one folder",
    home="",
    licence="",
    looks_for="X_mask.png (or _label, _seg, _gt, _L) beside X.jpg",
    read=_read,
    detect=_detect,
    splits="folders called train, val (valid), test; otherwise dealt",
    classes="of a list of classes, or of the labels",
    generic=True,
    coded=True,
)
