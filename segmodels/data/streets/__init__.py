"""`streets`, the built-in dataset: street scenes rendered from simple geometry, with exact truth.

    frame = render(seed=0, split="train", index=7, targets=("depth",))
    frames = render_sequence(seed=0, split="train", index=7, frames=10)
    write_dataset("data", seed=0, train=240, val=40, test=40)

A frame is made in this order: `layout`, `furniture`, `signs` and `traffic` invent a scene (`scene`: plain data),
`geometry` finds what each pixel sees, `shading` (with `facades`, `coachwork`, `markings`) gives it a colour,
`billboards` adds trees, people, poles and fences, `effects` turns light into a picture; `render` ties them together.
"""

from segmodels.data.streets.classes import CLASSES
from segmodels.data.streets.render import TARGETS, Frame, render, render_sequence
from segmodels.data.streets.write import write_dataset

__all__ = ["CLASSES", "TARGETS", "Frame", "render", "render_sequence", "write_dataset"]
