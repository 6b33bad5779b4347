"""What nine electrodes see of a current dipole in a chest: a homogeneous sphere that nothing leaves.

Of all bounded conductors the sphere is the one whose potential stands in a line. It does what matters here: at its
surface potentials are about three times those of an unbounded medium, and the limbs see more of the heart than
their distance alone would let them. Lungs, bones and the true form of the chest are not in it.

Body frame, in mm from the centre of the sphere: x to the left, y to the feet, z to the back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Electrodes in the order of :data:`ecgstore.simulate.dipole.MONTAGE`.
ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
#: Where they are, seen from the middle of the chest: degrees from the front to the left, and from level to the feet.
PLACES_DEG = np.array(
    [
        [-85.0, -48.0],
        [85.0, -48.0],
        [60.0, 72.0],
        [-10.0, 2.0],
        [10.0, 2.0],
        [25.0, 9.0],
        [40.0, 15.0],
        [64.0, 15.0],
        [88.0, 15.0],
    ]
)


def electrodes_mm(radius_mm: float, shift_deg: Floats) -> Floats:
    """Places of the electrodes on the chest, each moved by ``shift_deg`` (9, 2): (9, 3)."""
    left, down = np.deg2rad(PLACES_DEG + shift_deg).T
    place: Floats = radius_mm * np.stack(
        [np.cos(down) * np.sin(left), np.sin(down), -np.cos(down) * np.cos(left)], axis=1
    )
    return place


def lead_field(electrodes: Floats, sources_mm: Floats, radius_mm: float) -> Floats:
    """∇Z in mm⁻², (electrodes, sources, 3): a dipole p in a medium of conductivity σ gives p·∇Z/(4πσ).

    Z is Neumann's function of the ball for a point x at its surface and a source at y, with d = x − y and R = |x|:
    Z = 2/|d| − ln(R² − x·y + R|d|)/R, up to a constant, which no lead sees.
    """
    away = electrodes[:, None, :] - sources_mm[None, :, :]
    distance = np.sqrt(np.einsum("epk,epk->ep", away, away))[..., None]
    dot = (electrodes @ sources_mm.T)[..., None]
    inner = electrodes[:, None, :] / radius_mm + away / distance
    field: Floats = 2 * away / distance**3 + inner / (radius_mm**2 - dot + radius_mm * distance)
    return field


def transfer(
    electrodes: Floats, xyz_mm: Floats, area_mm2: Floats, radius_mm: float, conductivity_ratio: float
) -> Floats:
    """How much of each point's transmembrane voltage each electrode sees: (electrodes, points), without unit.

    Muscle that conducts alike in all directions is a double layer at its surface (Geselowitz 1989,
    doi:10.1109/5.29327): potential = −σi/(4πσ) ∮ V ∂Z/∂n dS, with n out of the muscle and ``conductivity_ratio`` σi/σ.
    """
    field = lead_field(electrodes, xyz_mm, radius_mm)
    weight = -conductivity_ratio / (4 * np.pi) * np.einsum("epk,pk->ep", field, area_mm2)
    # A heart at rest gives nothing (Gauss). The rings of the valves are not in the surface: their share is spread.
    area = np.linalg.norm(area_mm2, axis=1)
    shared: Floats = weight - weight.sum(axis=1, keepdims=True) * (area / area.sum())
    return shared
