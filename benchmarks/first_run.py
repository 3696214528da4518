"""What a first user sees: architectures from scratch on crops of a dataset, with `segmodels train`'s own defaults.

    python benchmarks/first_run.py DATA [--only NAME …] [--epochs 3] [--images 184] [--crop 128 160] [-s KEY=VALUE …]

The schedule is that of the default number of epochs; training stops after the first ones. Each epoch is a line: the
losses and the validation's mIoU. `--common` leaves out what the architecture sets for itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _common as common

from segmodels.catalog.recipes import from_scratch
from segmodels.data.folder import INFO_FILE, samples
from segmodels.data.formats import convert
from segmodels.runtime import set_up_process
from segmodels.settings.parse import parse
from segmodels.settings.schema import TrainSettings, merge

# Without normalisation, or with un-pooling: what is hardest to begin.
HARD = ("fcn8s", "deeplabv1", "segnet", "deconvnet", "crfasrnn")


class _EnoughError(Exception):
    """The epochs that were asked for are over."""


def part_of(data: Path, out: Path, images: int) -> Path:
    """A dataset of evenly spaced images of the training and the validation split."""
    if not (data / INFO_FILE).is_file():
        convert(data, out=out / "whole")
        data = out / "whole"
    info = json.loads((data / INFO_FILE).read_text())
    for split, most in (("train", images), ("val", max(8, images // 7))):
        found = samples(data, split)
        chosen = found[:: max(1, len(found) // most)][:most]
        for sample in chosen:
            for path, kind in ((sample.image, "images"), (sample.label, "labels")):
                target = out / "part" / split / kind / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        info["splits"][split] = len(chosen)
    info["splits"] = {split: info["splits"][split] for split in ("train", "val")}
    info["sequences"] = {}
    (out / "part" / INFO_FILE).write_text(json.dumps(info))
    return out / "part"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=HARD)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=184)
    parser.add_argument("--crop", type=int, nargs=2, default=(128, 160))
    parser.add_argument("--common", action="store_true")
    parser.add_argument("-s", "--set", action="append", default=[])
    args = parser.parse_args()
    set_up_process()
    from segmodels.training.fit import fit

    common.header("torch")
    print("| architecture | its own defaults | epoch | training loss | validation loss | mIoU, % | pixel accuracy, % |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = part_of(args.data, Path(folder), args.images)
        for name in args.only:
            own: dict[str, Any] = {} if args.common else from_scratch(name)
            own = merge(own, parse(args.set))
            shown = ", ".join(f"{key}={value}" for key, value in own.items())

            def told(row: Mapping[str, Any], name: str = name, shown: str = shown) -> None:
                scores = f"{100 * row['val_miou']:.1f} | {100 * row['val_pixel_accuracy']:.1f}"
                losses = f"{row['train_loss']:.3f} | {row['val_loss']:.3f}"
                print(f"| {name} | {shown} | {row['epoch']} | {losses} | {scores} |", flush=True)
                if row["epoch"] >= args.epochs:
                    raise _EnoughError

            settings = TrainSettings(**merge({"augment": {"crop": tuple(args.crop)}}, own))
            try:
                fit(data, Path(folder, name), architecture=name, settings=settings, checked=True, on_epoch=told)
            except _EnoughError:
                shutil.rmtree(Path(folder, f"{name}.state"))


if __name__ == "__main__":
    main()
