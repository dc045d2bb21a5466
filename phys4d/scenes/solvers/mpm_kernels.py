"""The loops of the material point method: particles to grid, grid, grid to particles.

Source: Hu et al., A Moving Least Squares Material Point Method (SIGGRAPH 2018); Jiang et al., The Affine
Particle-In-Cell Method (SIGGRAPH 2015).
"""

import math

import numpy as np

from phys4d.scenes.solvers.jit import compiled
from phys4d.scenes.solvers.mpm_stress import update_stress

NODE_MASS_KG = 1e-12


@compiled
def weights(scaled: float, out: np.ndarray) -> int:
    """Quadratic B-spline weights of three nodes at a position in cells; returns the first node."""
    base = int(scaled - 0.5)
    f = scaled - base
    out[0] = 0.5 * (1.5 - f) * (1.5 - f)
    out[1] = 0.75 - (f - 1.0) * (f - 1.0)
    out[2] = 0.5 * (f - 0.5) * (f - 0.5)
    return base


@compiled
def to_grid(
    x: np.ndarray,
    v: np.ndarray,
    c: np.ndarray,
    mass: np.ndarray,
    volume: np.ndarray,
    stress: np.ndarray,
    grid: np.ndarray,
    count: int,
    dx: float,
    dt: float,
) -> None:
    """Add mass (channel 0) and momentum (1 to 3) of the particles to the nodes, with the stress's impulse."""
    wx, wy, wz = np.empty(3), np.empty(3), np.empty(3)
    affine = np.empty((3, 3))
    inverse = 1.0 / dx
    for p in range(count):
        i0 = weights(x[p, 0] * inverse, wx)
        j0 = weights(x[p, 1] * inverse, wy)
        k0 = weights(x[p, 2] * inverse, wz)
        push = -4.0 * inverse * inverse * dt * volume[p]
        m = mass[p]
        for i in range(3):
            for k in range(3):
                affine[i, k] = push * stress[p, i, k] + m * c[p, i, k]
        for i in range(3):
            rx = (i0 + i) * dx - x[p, 0]
            for j in range(3):
                ry = (j0 + j) * dx - x[p, 1]
                wij = wx[i] * wy[j]
                for k in range(3):
                    rz = (k0 + k) * dx - x[p, 2]
                    w = wij * wz[k]
                    node = grid[i0 + i, j0 + j, k0 + k]
                    node[0] += w * m
                    node[1] += w * (m * v[p, 0] + affine[0, 0] * rx + affine[0, 1] * ry + affine[0, 2] * rz)
                    node[2] += w * (m * v[p, 1] + affine[1, 0] * rx + affine[1, 1] * ry + affine[1, 2] * rz)
                    node[3] += w * (m * v[p, 2] + affine[2, 0] * rx + affine[2, 1] * ry + affine[2, 2] * rz)


@compiled
def slide(
    vx: float, vy: float, vz: float, nx: float, ny: float, nz: float, friction: float
) -> tuple[float, float, float]:
    """Velocity relative to a solid with outward normal n after contact: no approach, Coulomb friction."""
    into = vx * nx + vy * ny + vz * nz
    if into >= 0.0:
        return vx, vy, vz
    tx, ty, tz = vx - into * nx, vy - into * ny, vz - into * nz
    speed = math.sqrt(tx * tx + ty * ty + tz * tz)
    keep = 0.0 if speed <= -friction * into else 1.0 + friction * into / speed
    return keep * tx, keep * ty, keep * tz


@compiled
def update_grid(
    grid: np.ndarray,
    distance: np.ndarray,
    normal: np.ndarray,
    balls: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    gravity: np.ndarray,
    friction: np.ndarray,
    ball_friction: float,
    dx: float,
    dt: float,
) -> None:
    """Momentum to velocity on the nodes in [low, high), with gravity, balls and walls.

    Args:
        distance: signed distance of each node to the fixed solids, metres; they own nodes where it is <= 0.
        normal, friction: outward normal and Coulomb friction of the fixed solids at each node.
        balls: rows of position, velocity, spin (3 each), radius, mass and orientation (quaternion wxyz);
            velocity and spin take the impulse.
    """
    for b in range(balls.shape[0]):
        for i in range(3):
            balls[b, 3 + i] += dt * gravity[i]
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            for k in range(low[2], high[2]):
                node = grid[i, j, k]
                m = node[0]
                if m <= NODE_MASS_KG:
                    node[1] = 0.0
                    node[2] = 0.0
                    node[3] = 0.0
                    continue
                vx = node[1] / m + dt * gravity[0]
                vy = node[2] / m + dt * gravity[1]
                vz = node[3] / m + dt * gravity[2]
                for b in range(balls.shape[0]):
                    rx = i * dx - balls[b, 0]
                    ry = j * dx - balls[b, 1]
                    rz = k * dx - balls[b, 2]
                    r = math.sqrt(rx * rx + ry * ry + rz * rz)
                    # Nodes up to half a cell outside, so that what they keep away is a ball's volume.
                    if r >= balls[b, 9] + 0.5 * dx or r == 0.0:
                        continue
                    sx = balls[b, 3] + balls[b, 7] * rz - balls[b, 8] * ry
                    sy = balls[b, 4] + balls[b, 8] * rx - balls[b, 6] * rz
                    sz = balls[b, 5] + balls[b, 6] * ry - balls[b, 7] * rx
                    ux, uy, uz = slide(vx - sx, vy - sy, vz - sz, rx / r, ry / r, rz / r, ball_friction)
                    fx, fy, fz = m * (vx - sx - ux), m * (vy - sy - uy), m * (vz - sz - uz)
                    vx, vy, vz = sx + ux, sy + uy, sz + uz
                    heavy = balls[b, 10]
                    inertia = 0.4 * heavy * balls[b, 9] * balls[b, 9]
                    balls[b, 3] += fx / heavy
                    balls[b, 4] += fy / heavy
                    balls[b, 5] += fz / heavy
                    balls[b, 6] += (ry * fz - rz * fy) / inertia
                    balls[b, 7] += (rz * fx - rx * fz) / inertia
                    balls[b, 8] += (rx * fy - ry * fx) / inertia
                if distance[i, j, k] <= 0.0:
                    n = normal[i, j, k]
                    vx, vy, vz = slide(vx, vy, vz, n[0], n[1], n[2], friction[i, j, k])
                node[1] = vx
                node[2] = vy
                node[3] = vz


@compiled
def from_grid(
    x: np.ndarray,
    v: np.ndarray,
    c: np.ndarray,
    grid: np.ndarray,
    count: int,
    dx: float,
    dt: float,
    bottom: np.ndarray,
    top: np.ndarray,
) -> bool:
    """Gather velocity and its gradient from the nodes and move the particles, within the walls.

    Returns:
        False where a particle would move a cell or more, or is not finite: the step is then not finished.
    """
    wx, wy, wz = np.empty(3), np.empty(3), np.empty(3)
    gather = np.empty(3)
    inverse = 1.0 / dx
    for p in range(count):
        i0 = weights(x[p, 0] * inverse, wx)
        j0 = weights(x[p, 1] * inverse, wy)
        k0 = weights(x[p, 2] * inverse, wz)
        gather[:] = 0.0
        for a in range(3):
            for d in range(3):
                c[p, a, d] = 0.0
        for i in range(3):
            rx = (i0 + i) - x[p, 0] * inverse
            for j in range(3):
                ry = (j0 + j) - x[p, 1] * inverse
                wij = wx[i] * wy[j]
                for k in range(3):
                    rz = (k0 + k) - x[p, 2] * inverse
                    w = wij * wz[k]
                    node = grid[i0 + i, j0 + j, k0 + k]
                    for a in range(3):
                        wv = w * node[1 + a]
                        gather[a] += wv
                        c[p, a, 0] += wv * rx
                        c[p, a, 1] += wv * ry
                        c[p, a, 2] += wv * rz
        for a in range(3):
            if not abs(dt * gather[a]) < dx:
                return False
            v[p, a] = gather[a]
            x[p, a] += dt * gather[a]
            # Nodes stop flow into walls, but a particle averages over 27 of them and may creep past.
            if x[p, a] < bottom[a]:
                x[p, a] = bottom[a]
                v[p, a] = max(v[p, a], 0.0)
            elif x[p, a] > top[a]:
                x[p, a] = top[a]
                v[p, a] = min(v[p, a], 0.0)
            for d in range(3):
                c[p, a, d] *= 4.0 * inverse
    return True


@compiled
def move_balls(balls: np.ndarray, top: np.ndarray, bottom: np.ndarray, bounce: float, dt: float) -> None:
    """Move and turn the balls and keep them between the walls of the tank."""
    for b in range(balls.shape[0]):
        w, x, y, z = balls[b, 11], balls[b, 12], balls[b, 13], balls[b, 14]
        p, q, r = 0.5 * dt * balls[b, 6], 0.5 * dt * balls[b, 7], 0.5 * dt * balls[b, 8]
        balls[b, 11] = w - p * x - q * y - r * z
        balls[b, 12] = x + p * w + q * z - r * y
        balls[b, 13] = y + q * w + r * x - p * z
        balls[b, 14] = z + r * w + p * y - q * x
        length = math.sqrt(balls[b, 11] ** 2 + balls[b, 12] ** 2 + balls[b, 13] ** 2 + balls[b, 14] ** 2)
        for i in range(11, 15):
            balls[b, i] /= length
        for i in range(3):
            balls[b, i] += dt * balls[b, 3 + i]
            low, high = bottom[i] + balls[b, 9], top[i] - balls[b, 9]
            if balls[b, i] < low and balls[b, 3 + i] < 0.0:
                balls[b, i] = low
                balls[b, 3 + i] *= -bounce
            elif balls[b, i] > high and balls[b, 3 + i] > 0.0:
                balls[b, i] = high
                balls[b, 3 + i] *= -bounce


@compiled
def bounds(x: np.ndarray, count: int, dx: float, shape: tuple, low: np.ndarray, high: np.ndarray) -> bool:
    """Node range that the particles touch; False where one left the grid or is not finite."""
    for i in range(3):
        least, most = math.inf, -math.inf
        for p in range(count):
            value = x[p, i]
            if not (value >= dx and value <= (shape[i] - 2) * dx):
                return False
            least, most = min(least, value), max(most, value)
        low[i] = int(least / dx - 0.5) if count else 0
        high[i] = int(most / dx - 0.5) + 3 if count else 0
    return True


@compiled
def advance(
    num_steps: int,
    dt: float,
    dx: float,
    count: int,
    x: np.ndarray,
    v: np.ndarray,
    c: np.ndarray,
    mass: np.ndarray,
    volume: np.ndarray,
    material: np.ndarray,
    liquid: np.ndarray,
    ratio: np.ndarray,
    b: np.ndarray,
    stress: np.ndarray,
    table: np.ndarray,
    grid: np.ndarray,
    distance: np.ndarray,
    normal: np.ndarray,
    balls: np.ndarray,
    bottom: np.ndarray,
    top: np.ndarray,
    gravity: np.ndarray,
    friction: np.ndarray,
    ball_friction: float,
    ball_bounce: float,
) -> int:
    """Take steps; returns how many were taken before a particle left the grid or went too fast for it."""
    low, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for step in range(num_steps):
        if not bounds(x, count, dx, grid.shape, low, high):
            return step
        for i in range(low[0], high[0]):
            for j in range(low[1], high[1]):
                for k in range(low[2], high[2]):
                    grid[i, j, k, 0] = 0.0
                    grid[i, j, k, 1] = 0.0
                    grid[i, j, k, 2] = 0.0
                    grid[i, j, k, 3] = 0.0
        update_stress(table, material, liquid, c, ratio, b, stress, count, dt)
        to_grid(x, v, c, mass, volume, stress, grid, count, dx, dt)
        update_grid(grid, distance, normal, balls, low, high, gravity, friction, ball_friction, dx, dt)
        if not from_grid(x, v, c, grid, count, dx, dt, bottom, top):
            return step
        move_balls(balls, top, bottom, ball_bounce, dt)
    return num_steps if bounds(x, count, dx, grid.shape, low, high) else num_steps - 1
