"""The training service: jobs that fit, fine-tune and evaluate models.

RPCs: CreateJob, GetJob, ListJobs, CancelJob, RetryJob, WatchJob, ListFamilies, GetReport (people); StartJob, ReportJob,
FinishJob, SaveCheckpoint, LoadCheckpoint, SaveReport (workers).
Publishes training.job.queued / started / progressed / succeeded / failed / cancelled; follows nothing.

`python -m services.training` serves; `python -m services.training worker` runs jobs, each in a child process. A job
whose worker died goes on from its checkpoint on another: its epoch, which the scheduler gives, fences what the first
may still say.
"""
