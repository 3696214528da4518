"""The rough plan of a street, which the layout and the furniture share."""

from __future__ import annotations

from dataclasses import dataclass

# Where the rows of buildings begin, behind the camera.
FIRST_S = -14.0


@dataclass(frozen=True)
class Side:
    """One side of the street.

    Attributes:
        direction: -1 left, 1 right.
        kind: `city` (shops, no gaps), `homes` (front gardens), `park` (trees, grass) or `open` (wide, sparse).
        half_width: Of the road.
        pavement: Its width.
        setback: From the pavement to the buildings.
        gaps: Stretches (from, to) that side streets take.
    """

    direction: int
    kind: str
    half_width: float
    pavement: float
    setback: float
    gaps: list[tuple[float, float]]

    def free(self, s: float, margin: float = 0.0) -> bool:
        """Tell whether no side street begins here."""
        return all(not low - margin < s < high + margin for low, high in self.gaps)


@dataclass(frozen=True)
class Plan:
    """Both sides, the side that one drives on (`hand`: -1 left) and how far the street goes."""

    half_width: float
    hand: int
    sides: tuple[Side, Side]
    end: float
