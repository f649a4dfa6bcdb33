"""The parts of a translation as the tasks of a job (:mod:`mblip.executors`), for Slurm and Ray clusters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mblip.config import DataRecipe
from mblip.corpora.sampling import sample_sources
from mblip.executors import Job, Place, executor_settings, run_job
from mblip.progress import Progress, silent
from mblip.translation.stage import Part, claim_sources, finish, write_part


def launch(
    executor: str, recipe: DataRecipe, work: Path, options: Mapping[str, str], progress: Progress = silent
) -> bool:
    """Translate every source of a recipe on a cluster; whether it is finished.

    Ray is waited for. Slurm jobs are only submitted: run the same command again, which waits for them and writes the
    manifests (or submits what is missing).

    Args:
        executor: ``slurm`` or ``ray``.
        recipe: What is translated, and how.
        work: Work folder that all nodes share.
        options: See :func:`mblip.executors.executor_settings`.
        progress: Is told how many parts are done while Slurm is waited for.

    Raises:
        MblipError: As in :func:`mblip.executors.executor_settings` and :func:`mblip.executors.run_job`.
    """
    settings = executor_settings(executor, options)
    stages = sample_sources(recipe, work)
    sources = [source for source in recipe.sources if source.translate]
    parts = claim_sources(recipe, sources, work)
    job = Job("mblip-translate", _translate, parts, _is_done, work / "logs" / "translate")
    if not run_job(executor, job, settings, progress):
        return False
    for source in sources:
        finish(recipe, source, work, stages[source.name])
    return True


def _translate(part: Part, place: Place) -> None:
    write_part(part)


def _is_done(part: Part) -> bool:
    return part.mark.exists()
