"""Rules that admission and the scheduler share: patience between priorities, and the share of larger images."""

LEAST_SHARE, MOST_SHARE = 0.2, 0.5
"""Of the device's time, for images that the small ones do not share their steps with, while there are small ones. Half
makes the small ones twice as slow, and no slower."""
PATIENCE = {"high": 0.0, "normal": 10.0, "low": 60.0}
"""Seconds a request lets later ones of a higher priority pass; between tenants, seconds of device time."""


def needed_share(seconds: float, within: float) -> float:
    """Of the device's time, for larger images with so much work left, to be done `within` seconds if that can be."""
    return MOST_SHARE if seconds >= MOST_SHARE * within else max(LEAST_SHARE, seconds / within)
