"""What uses a resource of one service, asked of the others before it is deleted: deployments and jobs.

Services ask each other as the caller, so that a caller sees of the users what its role may see.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import grpc

from lepton.v1 import common_pb2, inference_pb2, training_pb2
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.errors import FailedPrecondition, LeptonError, Unavailable

_PAGE = 1000
# A job that starts between two lists is in the third.
_STATES = ("QUEUED", "RUNNING", "QUEUED")
_MOST_NAMED = 10
_PLURALS = {"alias": "aliases", "deployment": "deployments", "job": "jobs"}


@dataclass(frozen=True, order=True)
class ResourceUser:
    """What uses a resource.

    Args:
        kind: deployment, alias or job.
        name: its name.
        use: how it uses the resource, for people.
    """

    kind: str
    name: str
    use: str


@dataclass(frozen=True)
class FoundUsers:
    """What uses a resource, as far as that is known.

    Args:
        users: by kind and name.
        unchecked: why others could not be looked up; empty where they were.
    """

    users: tuple[ResourceUser, ...] = ()
    unchecked: str = ""


# How a deployment or a job uses the resource in question, for people; empty where it does not.
UseOfDeployment = Callable[[inference_pb2.Deployment], str]
UseOfJob = Callable[[training_pb2.Job], str]


class ResourceUsers(Protocol):
    """Looks users up."""

    async def find(self, of_deployment: UseOfDeployment, of_job: UseOfJob) -> list[ResourceUser]:
        """Return the deployments and the queued or running jobs of the caller's workspace that use something.

        Raises:
            LeptonError: a service does not answer.
        """
        ...


class RemoteUsers:
    """Looks users up at the inference and training services, as the caller.

    Args:
        inference, training: channels of servicekit.rpc.
    """

    def __init__(self, inference: grpc.aio.Channel, training: grpc.aio.Channel) -> None:
        self._inference = InferenceServiceStub(inference)
        self._training = TrainingServiceStub(training)

    async def find(self, of_deployment: UseOfDeployment, of_job: UseOfJob) -> list[ResourceUser]:
        """Return the deployments and the queued or running jobs of the caller's workspace that use something.

        Raises:
            LeptonError: a service does not answer.
        """
        found = {
            ResourceUser("deployment", item.name, use)
            for item in await self._deployments()
            if (use := of_deployment(item))
        }
        found |= {ResourceUser("job", item.name, use) for item in await self._jobs() if (use := of_job(item))}
        return sorted(found)

    async def _deployments(self) -> list[inference_pb2.Deployment]:
        found: list[inference_pb2.Deployment] = []
        token = ""
        while True:
            request = inference_pb2.ListDeploymentsRequest(page_size=_PAGE, page_token=token)
            page = await self._inference.ListDeployments(request)
            found.extend(page.deployments)
            token = page.next_page_token
            if not token:
                return found

    async def _jobs(self) -> list[training_pb2.Job]:
        found: list[training_pb2.Job] = []
        for state in _STATES:
            token = ""
            while True:
                request = training_pb2.ListJobsRequest(page_size=_PAGE, page_token=token, filter=f'state = "{state}"')
                page = await self._training.ListJobs(request)
                found.extend(page.jobs)
                token = page.next_page_token
                if not token:
                    break
        return found


async def find_users(
    users: ResourceUsers, what: str, of_deployment: UseOfDeployment, of_job: UseOfJob, *, force: bool
) -> FoundUsers:
    """Return what uses a resource.

    Args:
        users: looks them up.
        what: the resource, for people, such as credit@2.
        of_deployment: says how a deployment uses it.
        of_job: says how a job uses it.
        force: whether it is deleted all the same: then services that do not answer are passed over.

    Raises:
        Unavailable: a service does not answer, so that nothing may be deleted.
    """
    try:
        return FoundUsers(tuple(await users.find(of_deployment, of_job)))
    except LeptonError as error:
        why = f"what uses {what} cannot be looked up now: {error.message}"
        if force:
            return FoundUsers((), why)
        raise Unavailable(
            f"{why}; nothing was deleted: try again, or delete with force", reason="USERS_UNKNOWN"
        ) from error


def refuse_if_used(what: str, users: Iterable[ResourceUser], reason: str) -> None:
    """Check that nothing uses a resource.

    Raises:
        FailedPrecondition: something does; the message and the metadata name it.
    """
    found = sorted(users)
    if not found:
        return
    named = ", ".join(f"{user.kind} {user.name} {user.use}" for user in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    kinds = sorted({user.kind for user in found})
    raise FailedPrecondition(
        f"{what} is in use: {named}{more}. Change, delete or cancel these first, or delete it with force, which breaks "
        "them",
        reason=reason,
        metadata={_PLURALS[kind]: ",".join(user.name for user in found if user.kind == kind) for kind in kinds},
    )


def users_to_proto(users: Iterable[ResourceUser]) -> list[common_pb2.ResourceUser]:
    """Return the messages of users."""
    return [common_pb2.ResourceUser(kind=user.kind, name=user.name, use=user.use) for user in users]
