"""Colour profiles (ICC, version 2) written from formulas, and their conversion to sRGB with numpy alone."""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.float64]  # (n, channels), 0 to 1

D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_GAMMA = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # g, a, b, c, d: as ICC's parametric curve


class Space(NamedTuple):
    """An RGB colour space: the chromaticities of its primaries, its white point and its curve."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: Colours
    gamma: float | None  # None is the curve of sRGB

    def matrix(self) -> Colours:
        """Return the matrix from linear RGB to XYZ, adapted to D50."""
        primaries = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (self.red, self.green, self.blue)]).T
        scaled: Colours = primaries * np.linalg.solve(primaries, self.white)
        cones = np.diag((BRADFORD @ D50) / (BRADFORD @ self.white))
        return np.asarray(np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ scaled)

    def to_linear(self, values: Colours) -> Colours:
        """Undo the curve."""
        return _srgb_to_linear(values) if self.gamma is None else values**self.gamma

    def profile(self) -> bytes:
        """Return the profile."""
        if self.gamma is None:
            curve = struct.pack(">4sIHH5i", b"para", 0, 3, 0, *(round(each * 65536) for each in SRGB_GAMMA))
        else:
            curve = _gamma_curve(self.gamma)
        columns = {name: _xyz(column) for name, column in zip(("rXYZ", "gXYZ", "bXYZ"), self.matrix().T, strict=True)}
        curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve)
        return _file("mntr", "RGB ", "XYZ ", {**columns, **curves, "wtpt": _xyz(D50)})

    def to_srgb(self, values: Colours) -> Colours:
        """Convert colours to sRGB; what is outside its gamut is clipped."""
        return _xyz_to_srgb(self.to_linear(values) @ self.matrix().T)


SRGB = Space((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65, None)
DISPLAY_P3 = Space((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65, None)
ADOBE_RGB = Space((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65, 563 / 256)
PROPHOTO = Space((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), D50, 461 / 256)


def grey_profile(gamma: float) -> bytes:
    return _file("mntr", "GRAY", "XYZ ", {"kTRC": _gamma_curve(gamma), "wtpt": _xyz(D50)})


def grey_to_srgb(values: Colours, gamma: float) -> Colours:
    return np.repeat(_linear_to_srgb(values**gamma), 3, axis=1)


# Lab of paper, and what each ink adds: a linear table, which every interpolation reproduces. All inks together are
# black, because LittleCMS scales colours between the black points of the two profiles.
PAPER = np.array([100.0, 0.0, 0.0])
INKS = np.array([[-16.0, -12.0, -24.0], [-22.0, 24.0, -8.0], [-7.0, -12.0, 32.0], [-55.0, 0.0, 0.0]])


def cmyk_profile() -> bytes:
    corners = np.array([[(i >> 3) & 1, (i >> 2) & 1, (i >> 1) & 1, i & 1] for i in range(16)], float)
    table = np.round((PAPER + corners @ INKS + (0, 128, 128)) * (65280 / 100, 256, 256)).astype(">u2")
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    line = struct.pack(">2H", 0, 65535)
    head = struct.pack(">4sIBBBB", b"mft2", 0, 4, 3, 2, 0)
    lut = head + identity + struct.pack(">2H", 2, 2) + line * 4 + table.tobytes() + line * 3
    return _file("prtr", "CMYK", "Lab ", {"A2B0": lut, "wtpt": _xyz(D50)})


def cmyk_to_srgb(values: Colours) -> Colours:
    light, a, b = (PAPER + values @ INKS).T
    y = (light + 16) / 116
    steps = np.stack([y + a / 500, y, y - b / 200], axis=1)
    xyz = np.where(steps > 6 / 29, steps**3, (steps - 4 / 29) * 3 * (6 / 29) ** 2) * D50
    return _xyz_to_srgb(xyz)


def _xyz_to_srgb(xyz: Colours) -> Colours:
    return _linear_to_srgb(xyz @ np.linalg.inv(SRGB.matrix()).T)


def _srgb_to_linear(values: Colours) -> Colours:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(values: Colours) -> Colours:
    clipped = np.clip(values, 0, 1)
    return np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** (1 / 2.4) - 0.055)


def _xyz(value: Colours) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(each * 65536) for each in value))


def _gamma_curve(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))


def _file(kind: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    """Return a profile: a header of 128 bytes, the table of tags, and the tags."""
    tags = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
        "cprt": b"text" + bytes(5),
        **tags,
    }
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", at + len(body), b"", 0x02400000, kind.encode(), space.encode(), connection.encode(), b"acsp"
    )
    head += bytes(28) + struct.pack(">3i", *(round(each * 65536) for each in D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
