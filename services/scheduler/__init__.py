"""The scheduler service: who the workers are, and where replicas and jobs run.

Owns: workers and their leases, placements and their epochs, and the leadership among schedulers. It owns no wishes:
the inference service says what should be served, the training service what should run, the scheduler alone says where.

RPCs: RegisterWorker, RenewLease, DeregisterWorker (workers); GetWorker, ListWorkers, DrainWorker, ResumeWorker,
ListPlacements (people).

Publishes: scheduler.worker.joined, scheduler.worker.lost, scheduler.placement.changed, in the workspace `platform`, for
workers belong to no workspace.

Follows: training.job.queued / started / succeeded / failed / cancelled, inference.deployment.changed, and the plain
subject lepton-reports.* (load and replica states). Events only make it quicker: every ten seconds it lists jobs and
deployments from their owners, and that is the truth.

How it works:
- `domain.plan.plan(cluster) -> Plan` is pure. The leader gathers the cluster, plans, writes the moves and their epochs
  in one transaction with the events, and then projects each worker's Assignment to the NATS KV bucket `placements`, key
  `worker.<id>`, with compare-and-set. SQL is the truth; the bucket is rewritten from it at start.
- Deployment.replicas is a floor: "at least so many". Inference workers of one host share a public port, and an
  answer on the spot is quicker than one passed on: so the policy `cover` adds a replica on every active worker that has
  room; these extra replicas make way as soon as another deployment lacks its floor. A version change hands over on
  each worker by itself.
- A version and its successor share the cores and GPUs that they declare while both stand on one worker; memory adds up.
- Leases live in the leader's memory: a renewal costs no write. Only joins, losses and drains are written. A new leader
  grants every worker a fresh lease with some grace, so a restart of the scheduler moves nothing.
- A drain lasts until it is resumed, or until the worker's process registers anew.
- One scheduler leads, by a row that it changes every few seconds; another takes over when the row stands still for
  longer than the lease, by its own clock. Each leadership has an epoch: every write checks it, and every Assignment
  bears it. On SQLite, where schedulers share a machine, a locked file hands over as soon as the leader dies.
- With NATS away, leases go on over gRPC, planning goes on in SQL, and the bucket catches up on return.
"""
