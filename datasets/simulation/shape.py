"""One person's proportions."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """Factors of the average (1), or metres where said.

    Attributes:
        size: Of everything; 1 is a person 1.93 m tall.
        girth: Thickness of the torso and the limbs.
        belly: Extra thickness of the abdomen, metres.
        shoulders: Width.
        hips: Width.
        legs: Length.
        arms: Length.
        head: Of the head in every direction.
        sleeve: Thickness of clothes on the arms, metres.
        trouser: Thickness of clothes on the legs, metres.
        jacket: Thickness of clothes on the torso, metres.
        skirt: Length of a skirt below the hips, metres; 0 for none.
        hair: Thickness of the hair, metres.
        long_hair: Whether hair falls on the neck.
        fist: Whether the hands are closed.
    """

    size: float = 1.0
    girth: float = 1.0
    belly: float = 0.0
    shoulders: float = 1.0
    hips: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    head: float = 1.0
    sleeve: float = 0.0
    trouser: float = 0.0
    jacket: float = 0.0
    skirt: float = 0.0
    hair: float = 0.01
    long_hair: bool = False
    fist: bool = False


def sample_shape(rng: np.random.Generator) -> Shape:
    """Draws a person."""
    return Shape(
        size=float(np.clip(rng.normal(0.97, 0.055), 0.8, 1.06)),
        girth=float(np.clip(rng.normal(1.05, 0.09), 0.85, 1.35)),
        belly=float(np.clip(rng.normal(0.0, 0.02), -0.015, 0.07)),
        shoulders=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12)),
        hips=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12)),
        legs=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08)),
        arms=float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.1)),
        head=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12)),
        sleeve=float(rng.choice([0.0, 0.004, 0.012])),
        trouser=float(rng.choice([0.0, 0.006, 0.016])),
        jacket=float(rng.choice([0.0, 0.006, 0.018])),
        skirt=float(rng.uniform(0.2, 0.5)) if rng.random() < 0.07 else 0.0,
        hair=float(rng.uniform(0.004, 0.022)),
        long_hair=bool(rng.random() < 0.2),
        fist=bool(rng.random() < 0.4),
    )
