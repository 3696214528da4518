"""nnU-Net's raw folder, two-dimensional: PNG, BMP or TIFF.

github.com/MIC-DKFZ/nnUNet, `documentation/dataset_format.md`; version 1's `dataset.json` has `modality` and labels the
other way round. Labels are class ids as they are; `ignore` is void. Patients are what stands in front of a name's last
`_`.

    dataset.json                    {"channel_names": {"0": "R", …}, "labels": {"background": 0, …}}
    imagesTr/case_001_0000.png      one file for each channel, or one of three with all of them
    labelsTr/case_001.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, first
from segmodels.errors import brief
from segmodels.files import ContentError, read_json

CHANNEL = "_0000"


def _read(root: Path, job: Job) -> Reading:
    listing = root / "dataset.json"
    try:
        labels = read_json(listing)["labels"]
        pairs = [(int(k), str(v)) if str(k).isdecimal() else (int(v), str(k)) for k, v in labels.items()]
    except ContentError as error:
        raise DatasetError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{listing}: `labels` is not a name and a number each ({brief(error)}); lists, for regions, are not read"
        ) from None
    kept = sorted((value, name) for value, name in pairs if name.lower() != "ignore")
    table = {value: index for index, (value, _) in enumerate(kept)}
    table |= {value: 255 for value, name in pairs if name.lower() == "ignore"}
    if second := first(root, "imagesTr/*_0001.*"):
        raise DatasetError(
            f"{second}: is a second channel in a file of its own; merge the channels of a case into one file"
        )

    def samples() -> Iterator[Raw]:
        for image in image_files(root / "imagesTr"):
            case = image.stem.removesuffix(CHANNEL)
            label = next((p for p in (root / "labelsTr").glob(f"{case}.*") if p.stem == case), None)
            if label is None:
                job.problems.append(f"{image}: has no label; labelsTr/{case}{image.suffix} is missing: add it")
                continue
            yield Raw(case, image, by_id(label, table), group=case.rpartition("_")[0])

    return Reading(infos([name for _, name in kept]), samples())


LAYOUT = Layout(
    "nnunet",
    "nnU-Net raw, 2D",
    home="https://github.com/MIC-DKFZ/nnUNet",
    licence="",
    looks_for="dataset.json beside imagesTr/ and labelsTr/",
    read=_read,
    marks=("dataset.json", "imagesTr", "labelsTr"),
    needs=("labelsTr/*.[pbt][nmi]*",),
    splits="dealt",
    classes="of dataset.json",
)
