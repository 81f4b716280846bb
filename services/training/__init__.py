"""The training service: jobs that fit, fine-tune and evaluate models.

RPCs: CreateJob, GetJob, ListJobs, CancelJob, WatchJob, ListFamilies (people); StartJob, ReportJob, FinishJob (workers).
Publishes training.job.queued / started / progressed / succeeded / failed / cancelled; follows nothing.

`python -m services.training` serves; `python -m services.training worker` runs jobs, each in a child process. A job
whose worker died begins anew on another: its epoch, which the scheduler gives, fences what the first may still say.
"""
