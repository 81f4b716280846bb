"""What the scheduler hears on NATS: facts of owners, and workers' reports."""

from lepton.v1 import events_pb2, scheduler_pb2
from servicekit.events import Event, Nats
from services.scheduler import events
from services.scheduler.convert import deployment_from_proto, job_from_proto, report_from_proto
from services.scheduler.domain.cluster import DeploymentKey, JobKey
from services.scheduler.domain.scheduler import Scheduler

_DURABLE = "scheduler"


class Listener:
    """Tells the scheduler of news. It commits nothing: a missed event is made good by the next list.

    Args:
        nats: the connection.
        scheduler: who is told.
    """

    def __init__(self, nats: Nats, scheduler: Scheduler) -> None:
        self._nats = nats
        self._scheduler = scheduler

    async def follow(self) -> None:
        """Follow facts until cancelled: only the leader does, for the consumer gives each to one process."""
        await self._nats.follow(_DURABLE, events.FOLLOWED, self.handle)

    async def hear_reports(self) -> None:
        """Subscribe to reports, once NATS is there; a standby hears them, too, and so knows loads when it leads."""
        await self._nats.subscribe_plain(events.REPORTS, scheduler_pb2.WorkerReport, self._hear)

    async def handle(self, event: Event) -> None:
        """Take one fact."""
        if event.subject == events.DEPLOYMENT_CHANGED:
            self._deployment(event)
        elif event.subject in events.JOB_ENDED:
            # The three messages are alike on the wire: field 1 is the job.
            ended = event.parse(events_pb2.JobSucceeded).job
            self._scheduler.jobs.drop(JobKey(event.workspace, ended.name))
        else:
            job = job_from_proto(event.parse(events_pb2.JobQueued).job, event.workspace)
            if job is not None:
                self._scheduler.jobs.put(job.key, job)
        self._scheduler.wake()

    def _deployment(self, event: Event) -> None:
        changed = event.parse(events_pb2.DeploymentChanged)
        if changed.deleted:
            self._scheduler.deployments.drop(DeploymentKey(event.workspace, changed.deployment.name))
        elif changed.deployment.number > 0:
            wanted = deployment_from_proto(changed.deployment, event.workspace)
            self._scheduler.deployments.put(wanted.key.owner, wanted)

    async def _hear(self, message: scheduler_pb2.WorkerReport) -> None:
        self._scheduler.hear(report_from_proto(message))
