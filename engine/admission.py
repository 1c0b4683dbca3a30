"""Whether a request that comes now is taken: what is accepted should be done in about what the queue holds."""

from collections.abc import Collection, Iterable

from .errors import DeadlineExceeded, QueueFull
from .fairness import MOST_SHARE, PATIENCE, needed_share
from .request import Request


def admit(request: Request, accepted: Collection[Request], max_queue_seconds: float) -> None:
    """Raises QueueFull or DeadlineExceeded for what would wait too long behind the accepted of its device."""
    queued, needed = seconds_left(accepted), seconds_at_most(request, accepted)
    if queued and needed > max_queue_seconds:
        message = (
            f"{queued:.1f} s of work are waiting and this request would be done in {needed:.1f} s; "
            f"this server queues {max_queue_seconds:g} s"
        )
        raise QueueFull(message, retry_after=min(queued, needed - max_queue_seconds))
    if request.deadline is not None:
        expected, allowed = seconds_until_done(request, accepted, max_queue_seconds), request.deadline - request.arrived
        if expected > allowed:
            message = f"this request would take {expected:.1f} s from now; its timeout is {allowed:g} s"
            raise DeadlineExceeded(message)


def seconds_at_most(request: Request, accepted: Collection[Request]) -> float:
    """Predicted with smaller requests coming without end, where there are some: they leave the larger `MOST_SHARE`."""
    behind_all = seconds_left(accepted) + request.seconds
    as_large = seconds_left(other for other in accepted if other.tokens >= request.tokens)
    if not as_large or all(other.tokens >= request.tokens for other in accepted):
        return behind_all
    return max(behind_all, (as_large + request.seconds) / MOST_SHARE)


def seconds_until_done(request: Request, accepted: Collection[Request], max_queue_seconds: float) -> float:
    """Predicted if nothing else comes: behind the no larger and no less urgent, and what larger ones get meanwhile."""
    patience = PATIENCE[request.params.priority]
    ahead = request.seconds + seconds_left(
        other for other in accepted if other.tokens <= request.tokens and PATIENCE[other.params.priority] <= patience
    )
    larger = seconds_left(other for other in accepted if other.tokens > request.tokens)
    share = needed_share(larger, max_queue_seconds)
    return ahead + min(larger, ahead * share / (1 - share))


def seconds_left(requests: Iterable[Request]) -> float:
    """Predicted, of all of them, one after the other."""
    return sum(request.seconds_left for request in requests)
