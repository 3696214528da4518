"""CamVid by colour with SegNet's 11 classes: the 31 of `camvid_colors` merged as the SegNet tutorial's labels are.

Badrinarayanan, Kendall, Cipolla, "SegNet" (2017), section 4; Sturgess, Alahari, Ladicky, Torr (BMVC 2009), who merged
them."""

from __future__ import annotations

from pathlib import Path

from segmodels.data.formats import camvid_colors
from segmodels.data.formats.layout import Job, Layout, Reading, Table

MERGED = {
    "sky": "Sky", "building": "Archway Bridge Building Tunnel Wall", "pole": "Column_Pole TrafficCone",
    "road": "LaneMkgsDriv LaneMkgsNonDriv Road RoadShoulder", "pavement": "ParkingBlock Sidewalk",
    "tree": "Tree VegetationMisc", "sign": "Misc_Text SignSymbol TrafficLight", "fence": "Fence",
    "car": "Car OtherMoving SUVPickupTruck Train Truck_Bus", "pedestrian": "Animal CartLuggagePram Child Pedestrian",
    "bicyclist": "Bicyclist MotorcycleScooter",
}  # fmt: skip


def _read(root: Path, job: Job) -> Reading:
    table, all_of_them = Table.official("camvid"), Table.official("camvid32")
    places = {info.name: index for index, info in enumerate(table.classes)}
    merged = {old: places[new] for new, names in MERGED.items() for old in names.split()}
    colors = {camvid_colors.VOID: 255} | {info.color: merged[info.name] for info in all_of_them.classes}
    return Reading(table.classes, camvid_colors.samples(root, job, colors), "camvid")


LAYOUT = Layout(
    "camvid_colors11",
    "CamVid, 11 classes by colour",
    home=camvid_colors.LAYOUT.home,
    licence=camvid_colors.LAYOUT.licence,
    looks_for=camvid_colors.LAYOUT.looks_for,
    read=_read,
    detect=camvid_colors.detect,
    splits=camvid_colors.LAYOUT.splits,
    classes="11",
    by_name=True,
)
