"""The planner: one pure function from what is to what should move. See `replicas` and `jobs` for the rules."""

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import Cluster, Plan
from services.scheduler.domain.jobs import plan_jobs
from services.scheduler.domain.replicas import plan_replicas


def plan(cluster: Cluster) -> Plan:
    """Return the moves of one round, and the work that has no place.

    Deterministic: the same cluster gives the same plan, whatever the order of its parts. Applied again and again, with
    replicas getting ready in between, it ends in a plan without moves.

    Args:
        cluster: workers, what is wanted, what is placed, and the time.
    """
    board = Board(cluster)
    unplaced = plan_replicas(board) + plan_jobs(board)
    return Plan(tuple(board.moves), tuple(unplaced))
