"""What the scheduler believes of a replica, by what its worker last said."""

from services.scheduler.domain.assignment import Report, ReportedReplica, Stored
from services.scheduler.domain.cluster import ReplicaPlacement, ReplicaState
from services.scheduler.domain.view import View
from tests.scheduler.clusters import NOW, deployment, inference_worker


def test_what_was_said_of_an_earlier_placement_says_nothing_of_the_present_one() -> None:
    view, worker, key = View(), inference_worker("w1"), deployment("credit").key
    for epoch, expected in ((4, ReplicaState.READY), (5, ReplicaState.PLACED)):
        placement = ReplicaPlacement("w1", key, epoch=epoch)
        view.take(Stored({"w1": worker}, (placement,)))
        view.hear(Report("w1", worker.epoch, replicas={key: ReportedReplica(ReplicaState.READY, epoch=4)}), NOW)
        (found,) = view.replicas()
        assert found.state is expected
