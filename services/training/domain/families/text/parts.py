"""Progress of a fit that has parts."""

from dataclasses import replace

from services.training.domain.families.model import Progress, Run


def report_part(run: Run, start: float, end: float, progress: Progress) -> None:
    """Tell a part's progress as the whole's, of which it goes from one share to another."""
    run.report(replace(progress, share=start + (end - start) * progress.share))
