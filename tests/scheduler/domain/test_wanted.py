from dataclasses import replace

from services.scheduler.domain.cluster import DeploymentKey, JobKey, JobPlacement, WantedDeployment, WantedJob
from services.scheduler.domain.wanted import Wanted, deployments_or_placed, jobs_or_placed
from tests.scheduler.clusters import deployment, job


def _listed(*jobs: WantedJob) -> Wanted[JobKey, WantedJob]:
    wanted: Wanted[JobKey, WantedJob] = Wanted()
    wanted.begin_listing()
    wanted.finish_listing({item.key: item for item in jobs})
    return wanted


def test_a_list_is_the_truth() -> None:
    wanted = _listed(job("a"), job("b"))
    wanted.begin_listing()
    wanted.finish_listing({job("b").key: job("b")})
    assert set(wanted.items()) == {job("b").key}


def test_events_during_a_list_are_not_undone_by_it() -> None:
    wanted = _listed(job("ended"))
    wanted.begin_listing()
    wanted.put(job("new").key, job("new"))
    wanted.drop(job("ended").key)
    wanted.finish_listing({job("ended").key: job("ended")})
    assert set(wanted.items()) == {job("new").key}


def test_an_event_that_was_overtaken_is_ignored() -> None:
    newer = replace(job("a"), sequence=5)
    wanted = _listed(newer)
    wanted.put(newer.key, replace(newer, sequence=3, worker="old"))
    assert wanted.items()[newer.key] == newer


def test_an_owner_that_was_never_heard_wants_what_is_placed() -> None:
    unheard: Wanted[JobKey, WantedJob] = Wanted()
    placed = JobPlacement("t1", job("a").key, epoch=7)
    (kept,) = jobs_or_placed(unheard, [placed])
    assert (kept.key, kept.worker, kept.epoch) == (placed.key, "t1", 7)
    assert jobs_or_placed(_listed(), [placed]) == ()


def test_an_owner_that_was_never_heard_wants_the_newest_version_placed() -> None:
    from services.scheduler.domain.cluster import ReplicaPlacement

    unheard: Wanted[DeploymentKey, WantedDeployment] = Wanted()
    old, new = deployment("credit", 2), deployment("credit", 1)
    placements = [ReplicaPlacement("i1", old.key, epoch=1), ReplicaPlacement("i1", new.key, epoch=2)]
    (kept,) = deployments_or_placed(unheard, placements)
    assert kept.key == new.key
