"""Autoscaling on predicted seconds of queued work: ten small images and ten large ones are not the same load."""

import math
from typing import Any

from ray.serve.config import AutoscalingContext


class QueueSecondsPolicy:
    """As many replicas as it takes for each to have `target_seconds` of work. Ray Serve applies bounds and delays.

    Args:
        target_seconds: predicted seconds of accepted work per replica, such as a quarter of SANA_MAX_QUEUE_SECONDS.
    """

    def __init__(self, target_seconds: float) -> None:
        self.target_seconds = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        seconds = (context.aggregated_metrics or {}).get("queue_seconds", {})
        return max(1, math.ceil(sum(seconds.values()) / self.target_seconds)), {}
