"""Rules that admission and the scheduler share: waiting time between priorities, and the share of larger images."""

MIN_SHARE, MAX_SHARE = 0.2, 0.5
"""Bounds of the share of device time for images too large to share a step with the small ones, while there are small
ones. A share of one half makes the small ones twice as slow, and no slower."""
PATIENCE = {"high": 0.0, "normal": 10.0, "low": 60.0}
"""Seconds for which a request lets later ones of a higher priority pass; between tenants, seconds of device time."""


def required_share(seconds: float, within: float) -> float:
    """Share of device time that larger images with `seconds` of work need to finish `within` seconds, if they can."""
    return MAX_SHARE if seconds >= MAX_SHARE * within else max(MIN_SHARE, seconds / within)
