"""The image that organs are painted into, and the shapes to paint.

Shapes are signed depths in mm, positive inside; `Region.soft` turns them into the share of the voxel that
they fill. That is the partial volume effect, and on a CPU it is ten times faster than painting through masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.synthesis.fields import SmoothField
from training.synthesis.patient import Patient
from training.synthesis.ranges import Point, Range

Box = tuple[slice, slice, slice]
EVERYWHERE: Range = (-np.inf, np.inf)
AIR_HU = -1000.0


@dataclass(frozen=True)
class CanvasRanges:
    """Warp of the whole anatomy, and unevenness of the fat around the kidneys."""

    warp_mm: Range = (1.0, 5.5)  # standard deviation of the displacement: no two patients alike
    warp_cell_mm: Range = (40.0, 90.0)  # longer than an organ's margin, shorter than the organ
    fat_uneven: float = 0.7  # relative standard deviation along the kidney's surface: it touches in places
    fat_uneven_cell_mm: float = 35.0
    fat_least_unevenness: float = 0.1  # keeps the clearance finite where the fat thins out


RANGES = CanvasRanges()


def raised(u: Tensor, power: float) -> Tensor:
    """About |u| to a power between 2 and 3: their mixture, much faster than a real power. Overwrites u."""
    square = u.square()
    return square if power == 2.0 else square.mul_(u.abs_().mul_(power - 2).add_(3 - power))


class Region:
    """A box of the canvas as views, possibly empty; painting changes the canvas. Depths are in mm."""

    def __init__(self, canvas: "Canvas", box: Box) -> None:
        self.axes = [axis[part] for axis, part in zip(canvas.axes, box, strict=True)]
        self.spacing_mm, self.edge_mm = canvas.spacing_mm, canvas.edge_mm
        self.hu = canvas.hu[box]
        self.z, self.y, self.x = (w[box] for w in canvas.warped)
        self.clearance, self.uneven_clearance = canvas.clearance[box], canvas.uneven_clearance[box]
        self.core, self.cavity, self.abdomen = canvas.core[box], canvas.cavity[box], canvas.abdomen[box]

    def soft(self, depth_mm: Tensor) -> Tensor:
        """Share of each voxel that a shape fills: its depth over the width of an edge, 0.5 on its surface."""
        return (depth_mm / self.edge_mm).add_(0.5).clamp_(0, 1)

    def free(self, clearance_mm: float) -> Tensor:
        """Share of each voxel that is farther from the kidney than this."""
        return self.soft(self.clearance - clearance_mm)

    def room(self, gap_mm: float) -> Tensor:
        """Share of each voxel inside the abdomen and farther from the kidney than the uneven gap."""
        return self.soft(self.uneven_clearance - gap_mm).mul_(self.abdomen)

    def paint(self, share: Tensor, hu: float | Tensor) -> None:
        """Blend the HU in by the share of each voxel."""
        self.hu.lerp_(hu if isinstance(hu, Tensor) else torch.full((), hu, device=self.hu.device), share)

    def noise(self, smooth: SmoothField, sd: float, mean: float = 0.0) -> Tensor:
        """The smooth field, scaled."""
        return smooth.at(self.axes).mul_(sd).add_(mean)

    def threshold(self, smooth: SmoothField, level_sd: float) -> Tensor:
        """Depth inside the blobs where the field exceeds the level."""
        return smooth.at(self.axes).sub_(level_sd).mul_(smooth.cell_mm)

    def curves(self, one: SmoothField, other: SmoothField, radius_sd: float) -> Tensor:
        """Depth inside vessel-like curves: where two fields are near zero at once."""
        away = one.at(self.axes).square_().add_(other.at(self.axes).square_()).sqrt_()
        return away.neg_().add_(radius_sd).mul_(one.cell_mm)

    def ellipsoid(self, centre: Point, radii: Point, power: float = 2.0) -> Tensor:
        """Depth inside a (super-)ellipsoid, true near its surface."""
        total: Tensor | None = None
        for w, c, r in zip((self.z, self.y, self.x), centre, radii, strict=True):
            part = raised((w - c).div_(r), power)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.neg_().add_(1.0).mul_(float(np.cbrt(np.prod(radii))) / power)

    def tube(self, y: float, x: float, radius_y: float, radius_x: float) -> Tensor:
        """Depth inside an elliptic tube along z."""
        total = ((self.y - y) / radius_y).square_().add_(((self.x - x) / radius_x).square_())
        return total.neg_().add_(1.0).mul_(float(np.sqrt(radius_y * radius_x)) / 2)


class Canvas:
    """The image, its coordinates warped by a smooth field, and the distance to the kidneys.

    Args:
        axes: three 1-D tensors, mm relative to the kidneys' midpoint.
        clearance: (D, H, W), mm to the nearest kidney voxel, 0 in the kidneys, capped.
        patient: the patient.
        spacing_mm: side of a voxel.
    """

    def __init__(
        self, axes: Sequence[Tensor], clearance: Tensor, patient: Patient, *, spacing_mm: float
    ) -> None:
        draw = patient.draw("warp")
        amplitude, cell = draw(RANGES.warp_mm), draw(RANGES.warp_cell_mm)
        self.axes, self.spacing_mm, self.edge_mm = list(axes), spacing_mm, spacing_mm * patient.edge_vox
        self.hu = torch.full_like(clearance, AIR_HU)
        self.warped: list[Tensor] = []
        self.reach: list[float] = []  # largest displacement along each axis (mm)
        for dim, axis in enumerate(axes):
            shift = draw.field(cell).at(axes).mul_(amplitude)
            self.reach.append(float(shift.abs().max()))
            self.warped.append(shift.add_(axis.view([-1 if d == dim else 1 for d in range(3)])))
        self.clearance = clearance
        uneven = (
            patient.draw("fat").field(RANGES.fat_uneven_cell_mm).at(axes).mul_(RANGES.fat_uneven).add_(1.0)
        )
        self.uneven_clearance = clearance / uneven.clamp_(min=RANGES.fat_least_unevenness)
        # set by `body` and `lungs`: depths under the skin's fat and under the wall's muscles, and the
        # share of each voxel that lies in the cavity and below the diaphragm
        self.core = self.cavity = self.abdomen = clearance
        self.metal: list[Point] = []

    def region(self, z: Range = EVERYWHERE, y: Range = EVERYWHERE, x: Range = EVERYWHERE) -> Region:
        """The box that holds every voxel whose warped coordinates lie in these ranges (mm)."""
        box = []
        for axis, (low, high), reach in zip(self.axes, (z, y, x), self.reach, strict=True):
            first, margin = float(axis[0]), reach + self.spacing_mm
            start = max(0.0, np.floor((low - margin - first) / self.spacing_mm))
            stop = min(float(len(axis)), np.ceil((high + margin - first) / self.spacing_mm) + 1)
            start = min(start, float(len(axis)))
            box.append(slice(int(start), int(max(start, stop))))
        return Region(self, (box[0], box[1], box[2]))

    def around(self, centre: Point, radii: Point) -> Region:
        """The box around an ellipsoid."""
        z, y, x = ((c - r, c + r) for c, r in zip(centre, radii, strict=True))
        return self.region(z, y, x)
