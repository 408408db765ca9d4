"""Furniture and other things that are no people: meshes around the origin's floor.

Each function draws one; x is across, y to the back, z up, metres.
"""

from collections.abc import Callable

import numpy as np

from datasets.simulation.solids import Solid, box, ellipsoid, joined, sheet, tube

Rng = np.random.Generator


def chair(rng: Rng) -> Solid:
    """A chair on legs or on a foot, with a straight or rounded back."""
    wide, deep = rng.uniform(0.2, 0.28, 2)
    seat, back = rng.uniform(0.38, 0.52), rng.uniform(0.35, 0.75)
    thick = rng.uniform(0.03, 0.12)
    parts = [box((-wide, -deep, seat - thick), (wide, deep, seat))]
    if rng.random() < 0.5:
        parts += _legs(rng, wide, deep, seat - thick)
    else:
        parts.append(tube((0, 0, 0.08), (0, 0, seat), (0.04, 0.04)))
        parts.append(tube((0, 0, 0), (0, 0, 0.1), (0.3, 0.05)))
    middle, lean = seat + back / 2, rng.uniform(0, 0.1)
    if rng.random() < 0.5:
        parts.append(
            box((-wide, deep - 0.04, seat + 0.05), (wide, deep + lean, seat + back))
        )
    else:
        gap = rng.uniform(0, 0.15)
        shape = (wide * rng.uniform(0.8, 1.1), rng.uniform(0.03, 0.08), back / 2)
        parts.append(ellipsoid((0, deep, middle + gap), shape))
        parts.append(tube((0, deep, seat), (0, deep, middle + gap), (0.03, 0.03)))
    if rng.random() < 0.3:  # a headrest
        parts.append(ellipsoid((0, deep, seat + back + 0.12), (0.14, 0.05, 0.09)))
    if rng.random() < 0.4:
        arm = seat + rng.uniform(0.15, 0.28)
        for side in (-1, 1):
            x = sorted((side * wide, side * (wide + 0.05)))
            parts.append(box((x[0], -deep, arm - 0.04), (x[1], deep, arm)))
            parts.append(box((x[0], 0, seat - 0.05), (x[1], 0.05, arm)))
    return joined(parts)


def _legs(rng: Rng, wide: float, deep: float, top: float) -> list[Solid]:
    thick = rng.uniform(0.012, 0.03)
    return [
        tube((x, y, 0), (x, y, top), (thick, thick))
        for x in (-0.92 * wide, 0.92 * wide)
        for y in (-0.92 * deep, 0.92 * deep)
    ]


def table(rng: Rng) -> Solid:
    """A table, with things on it or without."""
    wide, deep = rng.uniform(0.3, 1.0), rng.uniform(0.25, 0.5)
    top = rng.uniform(0.4, 1.05)
    parts = [box((-wide, -deep, top - 0.04), (wide, deep, top))]
    parts += _legs(rng, wide, deep, top - 0.04)
    if rng.random() < 0.4:  # closed at the front
        parts.append(box((-wide, -deep, 0.05), (wide, -deep + 0.03, top)))
    for _ in range(rng.poisson(1.5)):
        size = rng.uniform((0.04, 0.04, 0.03), (0.2, 0.2, 0.3))
        x, y = rng.uniform(-0.7, 0.7) * wide, rng.uniform(-0.7, 0.7) * deep
        if rng.random() < 0.5:
            parts.append(box((-size[0], -size[1], 0), size).moved((x, y, top)))
        else:
            parts.append(ellipsoid((x, y, top + size[2]), size))
    if rng.random() < 0.4:
        parts.append(screen(rng).moved((0, 0.1, top)))
    return joined(parts)


def screen(rng: Rng) -> Solid:
    """A screen on a stand."""
    wide, tall = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.5)
    foot = rng.uniform(0.05, 0.2)
    return joined(
        [
            box((-wide, 0, foot), (wide, rng.uniform(0.02, 0.08), foot + tall)),
            box((-0.03, 0.02, 0), (0.03, 0.05, foot + 0.05)),
            box((-0.12, -0.08, 0), (0.12, 0.1, 0.02)),
        ]
    )


def shelf(rng: Rng) -> Solid:
    """A shelf or cupboard: boards, and things on them."""
    wide, deep, tall = (
        rng.uniform(0.2, 0.8),
        rng.uniform(0.12, 0.35),
        rng.uniform(0.5, 2.2),
    )
    if rng.random() < 0.35:
        return box((-wide, -deep, 0), (wide, deep, tall))
    parts = [box((x - 0.02, -deep, 0), (x + 0.02, deep, tall)) for x in (-wide, wide)]
    if rng.random() < 0.6:
        parts.append(box((-wide, deep - 0.02, 0), (wide, deep, tall)))
    for z in np.linspace(0.05, tall, rng.integers(2, 6)):
        parts.append(box((-wide, -deep, z - 0.02), (wide, deep, z)))
        for x in rng.uniform(-0.85, 0.85, rng.poisson(2)) * wide:
            half = rng.uniform(0.02, 0.15)
            parts.append(
                box(
                    (x - half, -0.7 * deep, z),
                    (x + half, 0.7 * deep, z + rng.uniform(0.05, 0.3)),
                )
            )
    return joined(parts)


def sofa(rng: Rng) -> Solid:
    """A sofa, armchair or bed."""
    wide, deep = rng.uniform(0.4, 1.1), rng.uniform(0.35, 0.5)
    seat, back, arm = (
        rng.uniform(0.35, 0.5),
        rng.uniform(0.0, 0.55),
        rng.uniform(0.0, 0.3),
    )
    parts = [box((-wide, -deep, 0.05), (wide, deep, seat))]
    parts.append(box((-wide, deep - 0.2, seat), (wide, deep, seat + back + 0.02)))
    for side in (-1, 1):
        x = sorted((side * (wide - 0.15), side * wide))
        parts.append(box((x[0], -deep, seat), (x[1], deep, seat + arm + 0.02)))
    for x in rng.uniform(-0.7, 0.7, rng.poisson(1.0)) * wide:
        parts.append(ellipsoid((x, 0.2 * deep, seat + 0.15), (0.2, 0.1, 0.18)))
    return joined(parts)


def plant(rng: Rng) -> Solid:
    """A plant in a pot: leaves as flat ellipsoids around a stem."""
    tall, spread = rng.uniform(0.4, 1.9), rng.uniform(0.12, 0.45)
    pot = rng.uniform(0.1, 0.22)
    parts = [tube((0, 0, 0), (0, 0, 0.3), (0.8 * pot, pot))]
    parts.append(tube((0, 0, 0.25), (0, 0, 0.8 * tall), (0.02, 0.015)))
    for _ in range(rng.integers(6, 25)):
        at = rng.normal(0, (0.5 * spread, 0.5 * spread, 0.2 * tall))
        size = rng.uniform((0.05, 0.05, 0.02), (0.2, 0.2, 0.12))
        parts.append(ellipsoid(at + (0, 0, max(0.75 * tall, 0.4)), size))
    return joined(parts)


def lamp(rng: Rng) -> Solid:
    """A lamp or fan on a pole, a coat stand with what hangs on it."""
    tall = rng.uniform(0.9, 1.9)
    parts = [tube((0, 0, 0), (0, 0, tall), (0.02, 0.02))]
    parts.append(tube((0, 0, 0), (0, 0, 0.04), (0.2, 0.2)))
    if rng.random() < 0.5:
        wide = rng.uniform(0.1, 0.3)
        parts.append(tube((0, 0, tall), (0, 0, tall + 0.3), (wide, 0.6 * wide)))
    else:  # coats
        for _ in range(rng.integers(1, 5)):
            size = rng.uniform((0.1, 0.08, 0.25), (0.28, 0.2, 0.6))
            x, y = rng.normal(0, 0.1, 2)
            parts.append(ellipsoid((x, y, max(tall - size[2], size[2])), size))
    return joined(parts)


def boxes(rng: Rng) -> Solid:
    """A stack of boxes."""
    parts, top = [], 0.0
    for _ in range(rng.integers(1, 5)):
        half, tall = rng.uniform(0.08, 0.35, 2), rng.uniform(0.08, 0.6)
        part = box((-half[0], -half[1], 0), (half[0], half[1], tall))
        parts.append(
            part.turned(rng.uniform(0, np.pi)).moved((*rng.normal(0, 0.05, 2), top))
        )
        top += tall
    return joined(parts)


def animal(rng: Rng) -> Solid:
    """A body on four legs with a head, of the size of a dog."""
    long, high, thick = (
        rng.uniform(0.2, 0.5),
        rng.uniform(0.2, 0.6),
        rng.uniform(0.07, 0.16),
    )
    parts = [ellipsoid((0, 0, high), (long, thick, thick))]
    parts.append(ellipsoid((long, 0, high + 0.15), (0.13, 0.08, 0.1)))
    for x in (-0.8 * long, 0.8 * long):
        for y in (-0.6 * thick, 0.6 * thick):
            parts.append(tube((x, y, 0), (x, y, high), (0.03, 0.04)))
    return joined(parts)


def pillar(rng: Rng) -> Solid:
    """A pillar, barrel, bin, ball or bag, from a hand's width to a room's height."""
    wide, tall = rng.uniform(0.08, 0.35), rng.uniform(0.2, 2.6)
    if rng.random() < 0.5:
        return tube((0, 0, 0), (0, 0, tall), (wide, wide * rng.uniform(0.6, 1.1)))
    tall = min(tall, 1.4)
    return ellipsoid((0, 0, tall / 2), (wide, wide * rng.uniform(0.5, 1), tall / 2))


def curtain(rng: Rng) -> Solid:
    """A curtain, door or board that stands upright."""
    wide, tall = rng.uniform(0.4, 1.6), rng.uniform(0.8, 2.4)
    folds = 0.06 * rng.random() * np.sin(np.arange(40) * rng.uniform(0.2, 1.5))
    heights = np.tile(folds, (3, 1))
    return sheet(heights, (wide, tall)).moved((0, 0, tall / 2 + rng.uniform(0, 0.2)))


KINDS: tuple[Callable[[Rng], Solid], ...] = (
    chair,
    chair,
    chair,
    table,
    table,
    screen,
    shelf,
    sofa,
    plant,
    lamp,
    boxes,
    animal,
    pillar,
    curtain,
)


def sample(rng: Rng) -> Solid:
    """Draws a thing, turned anyhow."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    return kind(rng).turned(rng.uniform(-np.pi, np.pi))
