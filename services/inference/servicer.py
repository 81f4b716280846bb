"""The inference service's RPCs: from proto, call, to proto."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime

from lepton.v1 import inference_pb2 as pb
from lepton.v1 import inference_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, Role, current_identity
from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound
from servicekit.paging import Page
from servicekit.rpc import Context
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.convert import (
    batching_from_proto,
    deployment_to_proto,
    resources_from_proto,
    tuning_from_proto,
)
from services.inference.domain.deployments import (
    Deployment,
    ModelVersion,
    Observed,
    absence,
    check_etag,
    check_ready,
    check_resources,
    check_stays,
    names_version,
    previous_ref,
    serve_version,
    with_defaults,
)
from services.inference.domain.releasing import (
    end_canary,
    end_sharing,
    is_shared,
    promote_canary,
    running_canary,
)
from services.inference.observation import Changes, Observer
from services.inference.ports import Registry
from services.inference.release_controller import judge
from services.inference.release_convert import statistics_to_proto
from services.inference.release_updates import RELEASE_PATHS, ReleaseUpdate, refuse_release

_UPDATABLE = ("version", "replicas", "resources", "tuning", "response_cache_bytes", "batching", *RELEASE_PATHS)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Serves lepton.v1.InferenceService.

    Args:
        state: the database.
        registry: where versions are looked up, as the caller.
        changes: tells watchers.
        observer: what workers report.
        standby_seconds: how long a former version stays loaded.
    """

    def __init__(
        self,
        state: State[SqlRepository],
        registry: Registry,
        changes: Changes,
        observer: Observer,
        standby_seconds: float,
    ) -> None:
        self._state = state
        self._registry = registry
        self._changes = changes
        self._observer = observer
        self._standby_seconds = standby_seconds

    async def CreateDeployment(self, request: pb.CreateDeploymentRequest, context: Context) -> pb.Deployment:
        """Declare that a version be served."""
        given = request.deployment
        if not given.version and not given.name:
            raise InvalidArgument("deployment.version is required: name@number or name@alias", reason="FIELD_RULES")
        refuse_release(given)
        declared = resources_from_proto(given.resources)
        check_resources(declared)
        version = await self._registry.resolve(given.version or given.name)
        check_ready(version)
        now = datetime.now(UTC)
        wanted = Deployment(
            current_identity().workspace,
            given.name or version.model,
            given.version or version.ref,
            version.number,
            version.digest,
            max(1, given.replicas),
            with_defaults(declared, version),
            0,
            "",
            0,
            Observed(),
            now,
            now,
            tuning=tuning_from_proto(given.tuning),
            response_cache_bytes=given.response_cache_bytes,
            batching=batching_from_proto(given.batching),
            declared=declared,
        )

        async def act(repository: SqlRepository) -> pb.Deployment:
            return deployment_to_proto(await repository.add(wanted))

        answer = await self._state.once(request, pb.Deployment, act)
        await self._changes.tell()
        self._observer.stir()
        await self._check_kept(answer, None)
        return answer

    async def _check_kept(self, answer: pb.Deployment, before: Deployment | None) -> None:
        """Check that what a change serves was not deleted meanwhile; else undo the change.

        The registry marks a version before it looks for deployments, and a deployment is kept before the mark is looked
        for: of two calls at once at least one sees the other.

        Args:
            answer: the deployment as it was kept.
            before: as it was; None for a new one.

        Raises:
            FailedPrecondition: a version that it serves is being deleted, or gone.
        """
        workspace = current_identity().workspace
        try:
            for ref in _refs_of(answer):
                check_stays(await self._registry.resolve(ref))
        except (FailedPrecondition, NotFound) as error:
            async with self._state.writing() as repository:
                present = await repository.find(workspace, answer.name)
                if present.etag == answer.etag and before is None:
                    await repository.remove(present)
                elif present.etag == answer.etag and before is not None:
                    await repository.save(before)
            await self._changes.tell()
            raise FailedPrecondition(
                f"{error.message}: it was deleted at the same time", reason="VERSION_BEING_DELETED"
            ) from error

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.Deployment:
        """Return a deployment."""
        async with self._state.reading() as repository:
            return await self._whole(repository, await repository.find(current_identity().workspace, request.name))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        """Return a page of deployments; of all workspaces for a service that asks so."""
        identity = current_identity()
        sees_all = identity.role is Role.SERVICE and identity.workspace == ALL_WORKSPACES
        page = Page(request.page_size, request.page_token, request.filter, request.order_by)
        async with self._state.reading() as repository:
            found, token = await repository.list_deployments(None if sees_all else identity.workspace, page)
        # Services want what is wanted, of many deployments, again and again.
        is_service = identity.role is Role.SERVICE
        listed = [
            deployment_to_proto(item, with_workspace=True) if is_service else self._to_proto(item) for item in found
        ]
        return pb.ListDeploymentsResponse(deployments=listed, next_page_token=token)

    async def UpdateDeployment(self, request: pb.UpdateDeploymentRequest, context: Context) -> pb.Deployment:
        """Change what is wanted."""
        workspace = current_identity().workspace
        given, paths = request.deployment, set(request.update_mask.paths)
        if not paths or not paths <= set(_UPDATABLE):
            raise InvalidArgument(
                f"update_mask must name some of {', '.join(_UPDATABLE)}, got {', '.join(sorted(paths)) or 'nothing'}",
                reason="BAD_UPDATE_MASK",
                violations=[("update_mask", f"only {', '.join(_UPDATABLE)} can change")],
            )
        declared = resources_from_proto(given.resources)
        check_resources(declared)
        version = await self._version(given, paths)
        release = await ReleaseUpdate.resolve(self._registry, given, paths)

        before: list[Deployment] = []

        async def act(repository: SqlRepository) -> pb.Deployment:
            present = await repository.find(workspace, given.name)
            check_etag(present, given.etag)
            before[:] = [present]
            wanted = present
            if "version" in paths:
                wanted = self._serve(present, given.version, version)
            if "replicas" in paths:
                wanted = replace(wanted, replicas=max(1, given.replicas))
            if "resources" in paths:
                wanted = replace(wanted, resources=with_defaults(declared, version), declared=declared)
            if "tuning" in paths:
                wanted = replace(wanted, tuning=tuning_from_proto(given.tuning))
            if "response_cache_bytes" in paths:
                wanted = replace(wanted, response_cache_bytes=given.response_cache_bytes)
            if "batching" in paths:
                wanted = replace(wanted, batching=batching_from_proto(given.batching))
            wanted = release.apply(wanted, version, datetime.now(UTC))
            return deployment_to_proto(await repository.save(wanted))

        answer = await self._state.once(request, pb.Deployment, act)
        await self._changes.tell()
        if before and paths & {"version", *RELEASE_PATHS}:
            await self._check_kept(answer, before[0])
        return answer

    async def _version(self, given: pb.Deployment, paths: set[str]) -> ModelVersion:
        """Return the version that an update is about: a new one, which must be READY, or the present one."""
        if "version" in paths:
            version = await self._registry.resolve(given.version)
            check_ready(version)
            return version
        async with self._state.reading() as repository:
            present = await repository.find(current_identity().workspace, given.name)
        return await self._registry.resolve(f"{present.model}@{present.number}")

    async def RollbackDeployment(self, request: pb.RollbackDeploymentRequest, context: Context) -> pb.Deployment:
        """End a canary or a split; where there is neither, serve again what was served before."""
        workspace = current_identity().workspace
        if (kept := await self._state.answered(request, pb.Deployment)) is not None:
            return kept
        async with self._state.reading() as repository:
            seen = await repository.find(workspace, request.name)
        if is_shared(seen):
            why = "rolled back by hand"
            return await self._change(request, lambda now, item: end_sharing(item, why, now), seen.etag)
        ref = previous_ref(seen)
        version = await self._registry.resolve(ref)
        check_ready(version)

        async def act(repository: SqlRepository) -> pb.Deployment:
            present = await repository.find(workspace, request.name)
            # Whoever changed it between the look and now gets an answer to what is so, not to what was.
            check_etag(present, request.etag or seen.etag)
            return deployment_to_proto(await repository.save(self._serve(present, ref, version)))

        answer = await self._state.once(request, pb.Deployment, act)
        await self._changes.tell()
        return answer

    async def PromoteCanary(self, request: pb.PromoteCanaryRequest, context: Context) -> pb.Deployment:
        """Serve a running canary's version."""
        seconds = self._standby_seconds
        return await self._change(request, lambda now, item: promote_canary(item, "promoted by hand", now, seconds))

    async def AbortCanary(self, request: pb.AbortCanaryRequest, context: Context) -> pb.Deployment:
        """End a running canary."""

        def abort(now: datetime, item: Deployment) -> Deployment:
            running_canary(item)
            return end_canary(item, "aborted by hand", now)

        return await self._change(request, abort)

    async def _change(
        self,
        request: pb.RollbackDeploymentRequest | pb.PromoteCanaryRequest | pb.AbortCanaryRequest,
        change: Callable[[datetime, Deployment], Deployment],
        etag: str = "",
    ) -> pb.Deployment:
        """Change a deployment that is as its caller, or a look at it, saw it last."""

        async def act(repository: SqlRepository) -> pb.Deployment:
            present = await repository.find(current_identity().workspace, request.name)
            check_etag(present, request.etag or etag)
            return deployment_to_proto(await repository.save(change(datetime.now(UTC), present)))

        answer = await self._state.once(request, pb.Deployment, act)
        await self._changes.tell()
        return answer

    def _serve(self, deployment: Deployment, ref: str, version: ModelVersion) -> Deployment:
        now = datetime.now(UTC)
        return serve_version(deployment, ref, version, now=now, standby_seconds=self._standby_seconds)

    def _to_proto(self, deployment: Deployment) -> pb.Deployment:
        """Return a deployment's message with what its versions did, as this process has heard."""
        message = deployment_to_proto(deployment)
        for number, digest in self._observer.versions(deployment):
            ready = self._observer.ready_replicas(deployment, number, digest)
            measured = self._observer.measured(deployment, number, digest)
            message.statistics.append(statistics_to_proto(number, digest, ready, measured))
        decision = judge(self._observer, deployment)
        if decision is not None:
            message.canary.message = decision.message
        return message

    async def _whole(self, repository: SqlRepository, deployment: Deployment) -> pb.Deployment:
        """Return a deployment's message with its plans, too."""
        message = self._to_proto(deployment)
        message.plans.extend(await repository.plans(deployment.workspace, deployment.name))
        return message

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        """Stop serving."""
        workspace = current_identity().workspace

        async def act(repository: SqlRepository) -> pb.DeleteDeploymentResponse:
            await repository.remove(await repository.find(workspace, request.name))
            return pb.DeleteDeploymentResponse()

        answer = await self._state.once(request, pb.DeleteDeploymentResponse, act)
        await self._changes.tell()
        return answer

    async def LocateDeployment(
        self, request: pb.LocateDeploymentRequest, context: Context
    ) -> pb.LocateDeploymentResponse:
        """Return which workers serve a deployment now, or why none does."""
        async with self._state.reading() as repository:
            present = await repository.find(current_identity().workspace, request.name)
        holders = self._observer.holders(present, request.version)
        if holders:
            return pb.LocateDeploymentResponse(holders=holders)
        if request.version and not names_version(present, request.version):
            raise NotFound(f"deployment {present.name!r} serves no such version", reason="DEPLOYMENT_VERSION_NOT_FOUND")
        why = absence(present)
        return pb.LocateDeploymentResponse(reason=why.reason, message=why.message)

    async def RecordPlan(self, request: pb.RecordPlanRequest, context: Context) -> pb.RecordPlanResponse:
        """Keep the plan that a worker chose."""
        async with self._state.writing() as repository:
            present = await repository.find(current_identity().workspace, request.deployment)
            if await repository.keep_plan(present, request.plan):
                await repository.save_observed(present)
        await self._changes.tell()
        return pb.RecordPlanResponse()

    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDeploymentResponse]:
        """Stream a deployment whenever it changes."""
        workspace = current_identity().workspace
        sequence = request.after_sequence
        while True:
            # Before the look, so that no change falls between the two.
            turn = self._changes.turn
            async with self._state.reading() as repository:
                present = await repository.find(workspace, request.name)
                told = await self._whole(repository, present) if present.sequence > sequence else None
            if told is not None:
                sequence = present.sequence
                yield pb.WatchDeploymentResponse(deployment=told)
            await self._changes.wait(turn)


def _refs_of(deployment: pb.Deployment) -> list[str]:
    """Return the versions that a deployment wants loaded, as name@number."""
    found = [(deployment.version, deployment.number)]
    found += [(target.version, target.number) for target in deployment.traffic]
    if deployment.HasField("canary") and deployment.canary.state == pb.CANARY_STATE_RUNNING:
        found.append((deployment.canary.version, deployment.canary.number))
    if deployment.HasField("shadow"):
        found.append((deployment.shadow.version, deployment.shadow.number))
    return [f"{version.partition('@')[0]}@{number}" for version, number in found]
