"""Admission control: a request is accepted only if the device can finish it in about the time the queue may hold."""

from collections.abc import Collection, Iterable

from .errors import DeadlineExceeded, QueueFull
from .fairness import MAX_SHARE, PATIENCE, required_share
from .request import Request

IDLE_TRUST = 10.0
"""Factor by which a prediction may be too long. An idle device corrects none, and would refuse for ever."""


def admit(request: Request, accepted: Collection[Request], max_queue_seconds: float) -> None:
    """Raises QueueFull or DeadlineExceeded if the request would wait too long after the accepted ones of its device.

    An idle device accepts it unless it alone would take `IDLE_TRUST` times its timeout.
    """
    queued, needed = seconds_left(accepted), worst_case_seconds(request, accepted)
    if queued and needed > max_queue_seconds:
        message = (
            f"the queue holds {queued:.1f} s of work and this request would finish in {needed:.1f} s; "
            f"the limit is {max_queue_seconds:g} s"
        )
        raise QueueFull(message, retry_after=min(queued, needed - max_queue_seconds))
    if request.deadline is not None:
        expected, allowed = expected_seconds(request, accepted, max_queue_seconds), request.deadline - request.arrived
        if expected > (allowed if queued else allowed * IDLE_TRUST):
            message = f"the request would finish in {expected:.1f} s; its timeout is {allowed:g} s"
            raise DeadlineExceeded(message)


def worst_case_seconds(request: Request, accepted: Collection[Request]) -> float:
    """Predicted seconds until the request is done if smaller requests keep arriving and leave it only `MAX_SHARE`.

    Smaller requests are assumed to keep arriving only where some are accepted already.
    """
    after_all = seconds_left(accepted) + request.seconds
    at_least_as_large = seconds_left(other for other in accepted if other.tokens >= request.tokens)
    if not at_least_as_large or all(other.tokens >= request.tokens for other in accepted):
        return after_all
    return max(after_all, (at_least_as_large + request.seconds) / MAX_SHARE)


def expected_seconds(request: Request, accepted: Collection[Request], max_queue_seconds: float) -> float:
    """Predicted seconds until the request is done if no other request arrives.

    Requests that are no larger and no less urgent run before it; larger ones get their share of the device meanwhile.
    """
    patience = PATIENCE[request.params.priority]
    ahead = request.seconds + seconds_left(
        other for other in accepted if other.tokens <= request.tokens and PATIENCE[other.params.priority] <= patience
    )
    larger = seconds_left(other for other in accepted if other.tokens > request.tokens)
    share = required_share(larger, max_queue_seconds)
    return ahead + min(larger, ahead * share / (1 - share))


def seconds_left(requests: Iterable[Request]) -> float:
    """Predicted device seconds that the requests still need, one after the other."""
    return sum(request.seconds_left for request in requests)
