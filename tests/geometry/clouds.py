"""The 24 benchmark manifolds of the intrinsic-dimension literature, for tests.

Draws follow the order of scikit-dimension's `BenchmarkManifolds`, from a legacy `RandomState`, so
that a name and a seed give its cloud and its published values apply.
"""

import csv
import functools
import math
from pathlib import Path

import numpy as np

TURN = 2 * math.pi

# name: (intrinsic dimension, ambient dimension)
DIMENSIONS = {
    "M1_Sphere": (10, 11),
    "M2_Affine_3to5": (3, 5),
    "M3_Nonlinear_4to6": (4, 6),
    "M4_Nonlinear": (4, 8),
    "M5a_Helix1d": (1, 3),
    "M5b_Helix2d": (2, 3),
    "M6_Nonlinear": (6, 36),
    "M7_Roll": (2, 3),
    "M8_Nonlinear": (12, 72),
    "M9_Affine": (20, 20),
    "M10a_Cubic": (10, 11),
    "M10b_Cubic": (17, 18),
    "M10c_Cubic": (24, 25),
    "M10d_Cubic": (70, 71),
    "M11_Moebius": (2, 3),
    "M12_Norm": (20, 20),
    "M13a_Scurve": (2, 3),
    "M13b_Spiral": (1, 13),
    "Mbeta": (10, 40),
    "Mn1_Nonlinear": (18, 72),
    "Mn2_Nonlinear": (24, 96),
    "Mp1_Paraboloid": (3, 12),
    "Mp2_Paraboloid": (6, 21),
    "Mp3_Paraboloid": (9, 30),
}


@functools.cache
def reference() -> dict[tuple[str, str], float]:
    """Peers' values for seed 0 and n = 2500, by (manifold, estimator)."""
    path = Path(__file__).with_name("reference_values.csv")
    with path.open() as file:
        return {
            (row["manifold"], row["estimator"]): float(row["value"]) for row in csv.DictReader(file)
        }


def cloud(name: str, number: int = 2500, seed: int = 0) -> np.ndarray:
    """One manifold in float32."""
    draw = np.random.RandomState(seed)  # noqa: NPY002
    dimension, ambient = DIMENSIONS[name]
    return _MAKERS[name](draw, number, dimension, ambient).astype(np.float32)


def _sphere(draw, number, dimension, ambient):
    points = draw.randn(number, dimension + 1)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _affine_in_five(draw, number, dimension, ambient):
    x, y, z = 4 * draw.rand(3, number)
    columns = [
        1.2 * x - 0.5 * y + 3,
        0.5 * x + 0.9 * y - 1,
        -0.5 * x - 0.2 * y + z,
        0.4 * x - 0.9 * y - 0.1 * z,
        1.1 * x - 0.3 * y + 8,
    ]
    return np.stack(columns, axis=1)


def _quadrics(draw, number, dimension, ambient):
    p, q, r, s = draw.rand(4, number)
    columns = [
        q**2 * np.cos(TURN * p),
        r**2 * np.sin(TURN * p),
        q + r + (q - s) ** 2,
        q - 2 * r + (p - s) ** 2,
        -q - 2 * r + (r - s) ** 2,
        p**2 - q**2 + r**2 - s**2,
    ]
    return np.stack(columns, axis=1)


def _circles(draw, number, dimension, ambient):
    p = draw.rand(dimension, number).T
    radius = np.roll(p, -1, axis=1)
    circles = np.empty((number, 2 * dimension))
    circles[:, 0::2] = radius * np.cos(TURN * p)
    circles[:, 1::2] = radius * np.sin(TURN * p)
    return np.tile(circles, (1, ambient // (2 * dimension)))


def _helix(draw, number, dimension, ambient):
    angle = TURN / number + TURN * draw.rand(number)
    width = 2 + np.cos(8 * angle)
    return np.stack([width * np.cos(angle), width * np.sin(angle), np.sin(8 * angle)], axis=1)


def _helicoid(draw, number, dimension, ambient):
    radius = 10 * math.pi * draw.rand(number)
    angle = 10 * math.pi * draw.rand(number)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), angle / 2], axis=1)


def _roll(draw, number, dimension, ambient):
    angle = 1.5 * math.pi * (1 + 2 * draw.rand(number))
    height = 21 * draw.rand(number)
    return np.stack([angle * np.cos(angle), height, angle * np.sin(angle)], axis=1)


def _cube(draw, number, dimension, ambient):
    return (5 * draw.rand(dimension, number) - 2.5).T


def _faces(draw, number, dimension, ambient):
    each = number // (2 * (dimension + 1)) + 1
    faces = []
    for axis in range(dimension + 1):
        for side in (0.0, 1.0):
            face = draw.rand(dimension + 1, each)
            face[axis] = side
            faces.append(face.T)
    return np.concatenate(faces)[:number]


def _moebius(draw, number, dimension, ambient):
    angle = TURN * draw.rand(number)
    across = draw.rand(number) - 0.5
    width = 1 + across * np.cos(5 * angle)
    columns = [width * np.cos(angle), width * np.sin(angle), across * np.sin(5 * angle)]
    return np.stack(columns, axis=1)


def _normal(draw, number, dimension, ambient):
    return draw.multivariate_normal(np.zeros(dimension), np.eye(dimension), number)


def _s_curve(draw, number, dimension, ambient):
    angle = 3 * math.pi * (draw.rand(number) - 0.5)
    height = 2 * draw.rand(number)
    return np.stack([np.sin(angle), height, np.sign(angle) * (np.cos(angle) - 1)], axis=1)


def _spiral(draw, number, dimension, ambient):
    angle = 10 * math.pi * draw.rand(number)
    points = np.zeros((number, ambient))
    points[:, :3] = np.stack([100 * np.cos(angle), 100 * np.sin(angle), angle], axis=1)
    return points


def _beta(draw, number, dimension, ambient):
    x = draw.beta(10, 0.5, size=(number, dimension))
    pair = [x * np.sin(np.cos(TURN * x)), x * np.cos(np.sin(TURN * x))]
    return np.concatenate(pair * 2, axis=1)


def _tangents(draw, number, dimension, ambient):
    x = draw.random_sample((number, dimension))
    mirrored = x[:, ::-1]
    pair = [np.tan(x * np.cos(mirrored)), np.arctan(mirrored * np.sin(x))]
    return np.concatenate(pair * 2, axis=1)


def _paraboloid(draw, number, dimension, ambient):
    rates = draw.exponential(1, (dimension + 1, number))
    x = 1 / (1 + rates[1:] / rates[0]).T
    x = np.concatenate([x, np.sum(x * x, axis=1, keepdims=True)], axis=1)
    return np.concatenate([x, np.sin(x), x * x], axis=1)


_MAKERS = {
    "M1_Sphere": _sphere,
    "M2_Affine_3to5": _affine_in_five,
    "M3_Nonlinear_4to6": _quadrics,
    "M4_Nonlinear": _circles,
    "M5a_Helix1d": _helix,
    "M5b_Helix2d": _helicoid,
    "M6_Nonlinear": _circles,
    "M7_Roll": _roll,
    "M8_Nonlinear": _circles,
    "M9_Affine": _cube,
    "M10a_Cubic": _faces,
    "M10b_Cubic": _faces,
    "M10c_Cubic": _faces,
    "M10d_Cubic": _faces,
    "M11_Moebius": _moebius,
    "M12_Norm": _normal,
    "M13a_Scurve": _s_curve,
    "M13b_Spiral": _spiral,
    "Mbeta": _beta,
    "Mn1_Nonlinear": _tangents,
    "Mn2_Nonlinear": _tangents,
    "Mp1_Paraboloid": _paraboloid,
    "Mp2_Paraboloid": _paraboloid,
    "Mp3_Paraboloid": _paraboloid,
}
