"""Stress of material points: strain carried along, brought back to the yield surface, and what it costs.

Source: for sand, Klar et al., Drucker-Prager Elastoplasticity for Sand Animation (SIGGRAPH 2016) with the
volume correction of Tampubolon et al. (SIGGRAPH 2017); for liquids, Tait's equation with exponent 7.
"""

import math

import numpy as np

from phys4d.scenes.solvers.jit import compiled

LIQUID, SAND, MELTABLE = 0, 1, 2
KIND, BULK, SHEAR, VISCOSITY, FRICTION, YIELD = 0, 1, 2, 3, 4, 5
NUM_PROPERTIES = 6
TAIT_EXPONENT = 7.0


@compiled
def eigen_symmetric(a: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> None:
    """Eigenvalues and column eigenvectors of a symmetric 3x3 matrix by Jacobi rotations; `a` is used up."""
    for i in range(3):
        for j in range(3):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(12):
        off = a[0, 1] * a[0, 1] + a[0, 2] * a[0, 2] + a[1, 2] * a[1, 2]
        if off <= 1e-30 * (a[0, 0] * a[0, 0] + a[1, 1] * a[1, 1] + a[2, 2] * a[2, 2]):
            break
        for p in range(2):
            for q in range(p + 1, 3):
                if a[p, q] == 0.0:
                    continue
                theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                t = 1.0 / (abs(theta) + math.sqrt(theta * theta + 1.0))
                if theta < 0.0:
                    t = -t
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                for k in range(3):
                    x, y = a[k, p], a[k, q]
                    a[k, p], a[k, q] = c * x - s * y, s * x + c * y
                for k in range(3):
                    x, y = a[p, k], a[q, k]
                    a[p, k], a[q, k] = c * x - s * y, s * x + c * y
                for k in range(3):
                    x, y = vectors[k, p], vectors[k, q]
                    vectors[k, p], vectors[k, q] = c * x - s * y, s * x + c * y
    for i in range(3):
        values[i] = a[i, i]


@compiled
def return_strain(
    kind: int, strain: np.ndarray, carried: float, shear: float, bulk: float, friction: float, limit: float
) -> float:
    """Bring principal Hencky strains back to the yield surface, in place.

    Args:
        carried: sand's volume strain that expansion left to be taken back first.
        friction: Drucker-Prager slope alpha (sand).
        limit: largest |deviatoric strain| (meltable solid); 0 is a liquid, which also bears no tension.

    Returns:
        The new carried volume strain.
    """
    trace = strain[0] + strain[1] + strain[2]
    if kind == SAND:
        corrected = trace + carried
        if corrected >= 0.0:
            strain[:] = 0.0
            return corrected
        d0 = strain[0] - trace / 3.0
        d1 = strain[1] - trace / 3.0
        d2 = strain[2] - trace / 3.0
        size = math.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
        # With lambda = bulk - 2/3 shear: (3 lambda + 2 shear) / (2 shear) = 3 bulk / (2 shear).
        allowed = -1.5 * bulk / shear * corrected * friction
        scale = 1.0 if size <= allowed else allowed / size
        strain[0] = corrected / 3.0 + scale * d0
        strain[1] = corrected / 3.0 + scale * d1
        strain[2] = corrected / 3.0 + scale * d2
        return 0.0
    if limit == 0.0 and trace > 0.0:
        strain[:] = 0.0
        return 0.0
    d0 = strain[0] - trace / 3.0
    d1 = strain[1] - trace / 3.0
    d2 = strain[2] - trace / 3.0
    size = math.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
    if size > limit:
        scale = limit / size
        strain[0] = trace / 3.0 + scale * d0
        strain[1] = trace / 3.0 + scale * d1
        strain[2] = trace / 3.0 + scale * d2
    return 0.0


@compiled
def update_stress(
    table: np.ndarray,
    material: np.ndarray,
    liquid: np.ndarray,
    c: np.ndarray,
    ratio: np.ndarray,
    b: np.ndarray,
    stress: np.ndarray,
    count: int,
    dt: float,
) -> None:
    """Carry each particle's strain through one step of its velocity gradient and evaluate Kirchhoff stress.

    Args:
        table: a row of properties per material (KIND, BULK, ...), Pa and Pa s.
        liquid: melted share in [0, 1] (meltable only).
        c: velocity gradient in 1/s.
        ratio: liquid: volume ratio J; sand: carried volume strain.
        b: elastic left Cauchy-Green strain (sand and solid).
        stress: output, J times the Cauchy stress, Pa.
    """
    values = np.empty(3)
    vectors = np.empty((3, 3))
    work = np.empty((3, 3))
    left = np.empty((3, 3))
    for p in range(count):
        row = table[material[p]]
        kind = int(row[KIND])
        viscosity = row[VISCOSITY]
        if kind == LIQUID:
            j = ratio[p] * (1.0 + dt * (c[p, 0, 0] + c[p, 1, 1] + c[p, 2, 2]))
            # No tension: spray that came apart forgets by how much.
            j = min(max(j, 0.3), 1.0)
            ratio[p] = j
            pressure = row[BULK] / TAIT_EXPONENT * (j**-TAIT_EXPONENT - 1.0)
            for i in range(3):
                for k in range(3):
                    stress[p, i, k] = j * viscosity * (c[p, i, k] + c[p, k, i])
                stress[p, i, i] -= j * pressure
            continue
        for i in range(3):
            for k in range(3):
                left[i, k] = dt * c[p, i, k]
            left[i, i] += 1.0
        for i in range(3):
            for k in range(3):
                work[i, k] = left[i, 0] * b[p, 0, k] + left[i, 1] * b[p, 1, k] + left[i, 2] * b[p, 2, k]
        for i in range(3):
            for k in range(i, 3):
                total = work[i, 0] * left[k, 0] + work[i, 1] * left[k, 1] + work[i, 2] * left[k, 2]
                b[p, i, k] = total
                b[p, k, i] = total
        for i in range(3):
            for k in range(3):
                work[i, k] = b[p, i, k]
        eigen_symmetric(work, values, vectors)
        for i in range(3):
            values[i] = 0.5 * math.log(max(values[i], 1e-12))
        solid = 1.0 - liquid[p]
        shear = row[SHEAR]
        limit = 0.0
        if kind == MELTABLE and solid > 0.0:
            limit = 0.5 * math.sqrt(2.0 / 3.0) * row[YIELD] * solid * solid / shear
        viscosity *= 1.0 if kind == SAND else liquid[p]
        ratio[p] = return_strain(kind, values, ratio[p], shear, row[BULK], row[FRICTION], limit)
        trace = values[0] + values[1] + values[2]
        volume = math.exp(trace)
        for i in range(3):
            for k in range(3):
                stress[p, i, k] = volume * viscosity * (c[p, i, k] + c[p, k, i])
                b[p, i, k] = 0.0
        for n in range(3):
            tau = 2.0 * shear * (values[n] - trace / 3.0) + row[BULK] * trace
            square = math.exp(2.0 * values[n])
            for i in range(3):
                for k in range(3):
                    outer = vectors[i, n] * vectors[k, n]
                    stress[p, i, k] += tau * outer
                    b[p, i, k] += square * outer
