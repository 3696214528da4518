"""What synthetic pre-training is worth: CamVid from scratch and from weights trained on `streets` only, same minutes.

    python benchmarks/pretraining.py --camvid FOLDER [--work FOLDER] [--frames 3000] [--pretrain-epochs 5] [--epochs 36]

Generates the frames, trains the network on them, then trains it on CamVid twice, with the same settings and the same
number of epochs: from scratch and from the synthetic weights. Prints the test mIoU of both, and of the synthetic
weights before they have seen CamVid. Everything is resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common as common

from segmodels.data.formats import convert
from segmodels.data.streets import write_dataset
from segmodels.evaluation.evaluate import evaluate
from segmodels.settings.schema import AugmentSettings, EvaluateSettings, TrainSettings
from segmodels.tasks.semantic.metrics import class_iou, scores
from segmodels.training.fit import fit


def main() -> None:
    args = _arguments()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    size = (args.height, args.width)
    frames, camvid = work / "streets", work / "camvid"
    if not frames.exists():
        write_dataset(frames, seed=0, train=args.frames, val=60, test=60, height=args.height, width=args.width)
    if not camvid.exists():
        convert(args.camvid, "camvid", camvid)

    options: dict[str, Any] = json.loads(args.options)
    # The settings of conf/preset/cpu.yaml.
    base = TrainSettings(
        epochs=args.epochs,
        batch_size=8,
        lr=args.lr,
        ema=0.99,
        val_every=6,
        image_size=size,
        augment=AugmentSettings(crop=(192, 256), scale=(0.67, 1.33), color=0.3),
    )
    given: dict[str, Any] = {"architecture": args.model, "options": options}
    pretrain = replace(base, epochs=args.pretrain_epochs, val_every=1)
    runs = {
        "streets": (frames, pretrain),
        "scratch": (camvid, base),
        "from streets": (camvid, replace(base, weights=str(work / "streets-model"), new_layer_lr=1.0)),
    }
    results = {}
    for name, (data, settings) in runs.items():
        if args.only and name not in args.only:
            continue
        folder = work / f"{name.replace(' ', '-')}-model"
        if not folder.exists():
            fit(data, folder, settings=settings, name=name, signature=f"{name} {settings}", **given)
        quality = evaluate(folder, camvid, work / "evaluation" / name.replace(" ", "-"), EvaluateSettings(flip=True))
        results[name] = (quality.matrix, json.loads((folder / "speed.json").read_text()))
    _print(args, results)


def _print(args: argparse.Namespace, results: dict[str, Any]) -> None:
    common.header("torch")
    print(f"{args.model} {args.options}, trained at {args.height}x{args.width}; CamVid test, with flip")
    print(f"{'weights':14} {'mIoU':>6} {'pixel':>6} {'minutes':>8}   IoU of each class")
    for name, (matrix, speed) in results.items():
        s = scores(matrix)
        classes = " ".join(f"{100 * v:4.0f}" for v in class_iou(matrix))
        figures = f"{100 * s['miou']:6.1f} {100 * s['pixel_accuracy']:6.1f} {speed['seconds'] / 60:8.1f}"
        print(f"{name:14} {figures}   {classes}")
    if {"scratch", "from streets"} <= results.keys():
        gain = scores(results["from streets"][0])["miou"] - scores(results["scratch"][0])["miou"]
        print(f"synthetic pre-training is worth {100 * gain:+.1f} points of mIoU")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid in the layout of the SegNet tutorial")
    parser.add_argument("--work", type=Path, default=Path(".cache/pretraining"))
    parser.add_argument("--model", default="unet")
    parser.add_argument("--options", default='{"width": 16, "batch_norm": true, "dropout": 0.1}')
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--height", type=int, default=270)
    parser.add_argument("--width", type=int, default=360)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--pretrain-epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--only", nargs="*", help="of: streets, scratch, 'from streets'")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    args = parser.parse_args()
    if args.again:
        shutil.rmtree(args.work, ignore_errors=True)
    return args


if __name__ == "__main__":
    main()
