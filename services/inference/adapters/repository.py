"""Deployments in SQL."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, insert, select, update

from lepton.v1 import events_pb2, inference_pb2
from servicekit.errors import AlreadyExists, NotFound
from servicekit.paging import Page, next_token, page_query
from servicekit.state import Unit
from services.inference.adapters.tables import deployments, plans
from services.inference.convert import deployment_to_proto
from services.inference.domain.deployments import Batching, Deployment, DeploymentState, Observed, Resources
from services.inference.domain.tuning import Tuning, TuningMode
from services.inference.ports import Listing
from services.inference.release_convert import release_from_json, release_to_json

_CHANGED = "inference.deployment.changed"
# Of a deployment: its present version and some former ones, on a few kinds of hardware.
_MOST_PLANS = 16


class SqlRepository:
    """The repository port on one transaction.

    Args:
        unit: the transaction.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    async def find(self, workspace: str, name: str) -> Deployment:
        """Return a deployment, locked for a writing transaction.

        Raises:
            NotFound: there is none.
        """
        query = select(deployments).where(_key(workspace, name))
        row = (await self._unit.execute(self._unit.locked(query))).one_or_none()
        if row is None:
            raise NotFound(f"no deployment {name!r}", reason="DEPLOYMENT_NOT_FOUND")
        return _deployment(row)

    async def add(self, deployment: Deployment) -> Deployment:
        """Keep a new deployment, publishing inference.deployment.changed.

        Raises:
            AlreadyExists: there is one of that name.
        """
        key = _key(deployment.workspace, deployment.name)
        if (await self._unit.execute(select(deployments.c.name).where(key))).one_or_none() is not None:
            raise AlreadyExists(
                f"deployment {deployment.name!r} exists: update it, or choose another name", reason="DEPLOYMENT_EXISTS"
            )
        # A counter, not 1: who watched a deployment of this name that was deleted must see the new one.
        sequence = await self._unit.next_number(f"sequence/{deployment.workspace}/{deployment.name}")
        made = replace(deployment, etag=uuid.uuid4().hex, sequence=sequence)
        await self._unit.execute(insert(deployments).values(_row(made)))
        await self._publish(made)
        return made

    async def save(self, deployment: Deployment) -> Deployment:
        """Keep what is wanted anew, with a new etag, publishing inference.deployment.changed; return it."""
        changed = replace(deployment, etag=uuid.uuid4().hex, update_time=datetime.now(UTC))
        saved = await self.save_observed(changed)
        await self._publish(saved)
        return saved

    async def save_observed(self, deployment: Deployment) -> Deployment:
        """Keep how far a deployment is true, and when it served first; return it."""
        if deployment.serve_time is None and deployment.observed.ready_replicas:
            deployment = replace(deployment, serve_time=datetime.now(UTC))
        sequence = await self._unit.next_number(f"sequence/{deployment.workspace}/{deployment.name}")
        saved = replace(deployment, sequence=sequence)
        key = _key(deployment.workspace, deployment.name)
        await self._unit.execute(update(deployments).where(key).values(_row(saved)))
        return saved

    async def save_reserved(self, deployment: Deployment) -> Deployment:
        """Keep what a deployment's replicas reserve, publishing inference.deployment.changed; return it."""
        saved = await self.save_observed(deployment)
        await self._publish(saved)
        return saved

    async def remove(self, deployment: Deployment) -> None:
        """Delete a deployment, publishing inference.deployment.changed."""
        await self._unit.execute(delete(deployments).where(_key(deployment.workspace, deployment.name)))
        await self._unit.execute(delete(plans).where(_plans_of(deployment.workspace, deployment.name)))
        await self._publish(deployment, deleted=True)

    async def plans(self, workspace: str, name: str) -> list[inference_pb2.Plan]:
        """Return a deployment's plans, newest first."""
        query = select(plans.c.content).where(_plans_of(workspace, name)).order_by(plans.c.time.desc())
        return [inference_pb2.Plan.FromString(row.content) for row in (await self._unit.execute(query)).all()]

    async def keep_plan(self, deployment: Deployment, plan: inference_pb2.Plan) -> bool:
        """Keep a plan in the place of the one for the same version and hardware; tell whether it is another one."""
        kept = await self.plans(deployment.workspace, deployment.name)
        same = [other for other in kept if (other.digest, other.hardware) == (plan.digest, plan.hardware)]
        if same and _without_times(same[0]) == _without_times(plan):
            return False
        oldest = [other for other in kept if other not in same][_MOST_PLANS - 1 :]
        for other in (*same, *oldest):
            found = (plans.c.digest == other.digest) & (plans.c.hardware == other.hardware)
            await self._unit.execute(delete(plans).where(_plans_of(deployment.workspace, deployment.name) & found))
        row = {
            "workspace": deployment.workspace,
            "name": deployment.name,
            "digest": plan.digest,
            "hardware": plan.hardware,
            "content": plan.SerializeToString(),
            "time": datetime.now(UTC),
        }
        await self._unit.execute(insert(plans).values(row))
        return True

    async def followers(self, workspace: str, ref: str) -> list[Deployment]:
        """Return the deployments that follow an alias, name@alias."""
        query = select(deployments).where(deployments.c.workspace == workspace, deployments.c.version == ref)
        return [_deployment(row) for row in (await self._unit.execute(query)).all()]

    async def everyone(self) -> list[Deployment]:
        """Return the deployments of all workspaces."""
        return [_deployment(row) for row in (await self._unit.execute(select(deployments))).all()]

    async def list_deployments(self, workspace: str | None, page: Listing) -> tuple[list[Deployment], str]:
        """Return a page of deployments, of a workspace or all, and the token of the next."""
        wanted = Page(page.size, page.token, page.filter, page.order_by)
        query = select(deployments)
        if workspace is not None:
            query = query.where(deployments.c.workspace == workspace)
        query = page_query(
            query,
            wanted,
            filters={"name": deployments.c.name},
            orders={"name": deployments.c.name, "create_time": deployments.c.create_time},
            default_order="name",
            tie=deployments.c.name if workspace is not None else deployments.c.workspace,
        )
        rows = (await self._unit.execute(query)).all()
        return [_deployment(row) for row in rows[: wanted.limit]], next_token(wanted, rows)

    async def _publish(self, deployment: Deployment, *, deleted: bool = False) -> None:
        fact = events_pb2.DeploymentChanged(deployment=deployment_to_proto(deployment), deleted=deleted)
        await self._unit.publish(deployment.workspace, _CHANGED, fact, key=deployment.name)


def _key(workspace: str, name: str) -> Any:
    return (deployments.c.workspace == workspace) & (deployments.c.name == name)


def _plans_of(workspace: str, name: str) -> Any:
    return (plans.c.workspace == workspace) & (plans.c.name == name)


def _without_times(plan: inference_pb2.Plan) -> inference_pb2.Plan:
    bare = inference_pb2.Plan()
    bare.CopyFrom(plan)
    bare.ClearField("create_time")
    return bare


def _tuning_text(tuning: Tuning) -> str:
    given: dict[str, object] = {}
    if tuning.mode is not None:
        given["mode"] = tuning.mode.value
    if tuning.max_quality_loss_points is not None:
        given["max_quality_loss_points"] = tuning.max_quality_loss_points
    if tuning.dataset:
        given["dataset"] = tuning.dataset
    return json.dumps(given, sort_keys=True)


def _tuning(text: str) -> Tuning:
    given = json.loads(text)
    mode = given.get("mode")
    return Tuning(TuningMode(mode) if mode else None, given.get("max_quality_loss_points"), given.get("dataset", ""))


def _row(deployment: Deployment) -> dict[str, Any]:
    observed = deployment.observed
    kept_apart = ("observed", "resources", "tuning", "release", "declared")
    plain = {name: value for name, value in vars(deployment).items() if name not in kept_apart}
    return {
        **plain,
        **vars(deployment.resources),
        "state": observed.state.value,
        "ready_replicas": observed.ready_replicas,
        "message": observed.message,
        "providers": json.dumps(observed.providers, sort_keys=True),
        "waiting_reason": observed.waiting_reason,
        "declared_cores": deployment.declared.cores,
        "declared_memory_bytes": deployment.declared.memory_bytes,
        "tuning": _tuning_text(deployment.tuning),
        "batching": deployment.batching.value,
        "release": release_to_json(deployment.release),
    }


def _deployment(row: Any) -> Deployment:
    return Deployment(
        row.workspace,
        row.name,
        row.version,
        row.number,
        row.digest,
        row.replicas,
        Resources(row.cores, row.memory_bytes, row.gpus),
        row.previous_number,
        row.etag,
        row.sequence,
        Observed(
            DeploymentState(row.state),
            row.ready_replicas,
            row.message,
            json.loads(row.providers),
            row.waiting_reason,
        ),
        row.create_time,
        row.update_time,
        release_from_json(row.release),
        tuning=_tuning(row.tuning),
        response_cache_bytes=row.response_cache_bytes,
        batching=Batching(row.batching),
        # GPUs are never measured: what is reserved of them was declared.
        declared=Resources(row.declared_cores, row.declared_memory_bytes, row.gpus),
        serve_time=row.serve_time,
    )
