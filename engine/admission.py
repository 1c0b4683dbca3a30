"""Whether a request that comes now is taken: what is accepted should be done in about what the queue holds."""

from collections.abc import Collection, Iterable

from .errors import DeadlineExceeded, QueueFull
from .scheduler import MOST_SHARE, PATIENCE, needed_share
from .ticket import Ticket


def admit(ticket: Ticket, accepted: Collection[Ticket], max_queue_seconds: float) -> None:
    """Raises QueueFull or DeadlineExceeded for what would wait too long behind the accepted of its device."""
    queued, needed = seconds_left(accepted), seconds_at_most(ticket, accepted)
    if queued and needed > max_queue_seconds:
        message = (
            f"{queued:.1f} s of work are waiting and this request would be done in {needed:.1f} s; "
            f"this server queues {max_queue_seconds:g} s"
        )
        raise QueueFull(message, retry_after=min(queued, needed - max_queue_seconds))
    if ticket.deadline is not None:
        expected, allowed = seconds_until_done(ticket, accepted, max_queue_seconds), ticket.deadline - ticket.arrived
        if expected > allowed:
            message = f"this request would take {expected:.1f} s from now; its timeout is {allowed:g} s"
            raise DeadlineExceeded(message)


def seconds_at_most(ticket: Ticket, accepted: Collection[Ticket]) -> float:
    """Predicted with smaller requests coming without end, where there are some: they leave the larger `MOST_SHARE`."""
    behind_all = seconds_left(accepted) + ticket.seconds
    as_large = seconds_left(other for other in accepted if other.tokens >= ticket.tokens)
    if not as_large or all(other.tokens >= ticket.tokens for other in accepted):
        return behind_all
    return max(behind_all, (as_large + ticket.seconds) / MOST_SHARE)


def seconds_until_done(ticket: Ticket, accepted: Collection[Ticket], max_queue_seconds: float) -> float:
    """Predicted if nothing else comes: behind the no larger and no less urgent, and what larger ones get meanwhile."""
    patience = PATIENCE[ticket.params.priority]
    ahead = ticket.seconds + seconds_left(
        other for other in accepted if other.tokens <= ticket.tokens and PATIENCE[other.params.priority] <= patience
    )
    larger = seconds_left(other for other in accepted if other.tokens > ticket.tokens)
    share = needed_share(larger, max_queue_seconds)
    return ahead + min(larger, ahead * share / (1 - share))


def seconds_left(tickets: Iterable[Ticket]) -> float:
    """Predicted, of all of them, one after the other."""
    return sum(ticket.seconds_left for ticket in tickets)
