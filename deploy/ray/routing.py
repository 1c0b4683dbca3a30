"""Which engine replica gets a request: one that has not refused it, and of two of these the one with fewer requests."""

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class UntriedFirst(RequestRouter):
    """Two random replicas among those that have not refused the request, then two among the others.

    Of the replicas of a rank Ray takes the one with the fewest requests. Ray's own router does not know that a replica
    has refused, and would choose it again: a full queue of few large requests looks short.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        tried: set[str] = set()
        if pending_request is not None and pending_request.metadata.call_method == "generate":
            tried = set(pending_request.args[2])
        fresh = [replica for replica in candidate_replicas if replica.replica_id.unique_id not in tried]
        others = [replica for replica in candidate_replicas if replica.replica_id.unique_id in tried]
        return [random.sample(rank, min(2, len(rank))) for rank in (fresh, others) if rank]
