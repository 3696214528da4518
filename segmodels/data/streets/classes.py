"""CamVid's eleven classes, in CamVid's order and colours."""

from __future__ import annotations

from segmodels.data.folder import ClassInfo

CLASSES: tuple[ClassInfo, ...] = (
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("building", (128, 0, 0)),
    ClassInfo("pole", (192, 192, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (60, 40, 222)),
    ClassInfo("tree", (128, 128, 0)),
    ClassInfo("sign", (192, 128, 128)),
    ClassInfo("fence", (64, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("pedestrian", (64, 64, 0)),
    ClassInfo("bicyclist", (0, 128, 192)),
)

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))

# Classes whose objects carry an instance id (hedges, tree lines and grass are stuff all the same).
THINGS = (POLE, TREE, SIGN, CAR, PEDESTRIAN, BICYCLIST)
