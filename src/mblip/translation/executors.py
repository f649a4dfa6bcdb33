"""Run the parts of a translation as tasks of a job (:mod:`mblip.executors`), on Slurm and Ray clusters."""

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
    """Translate every source of a recipe on a cluster; returns whether it is finished.

    The call waits for Ray, but only submits Slurm jobs: run the same command again, which waits for them and writes the
    manifests (or submits missing parts).

    Args:
        executor: ``slurm`` or ``ray``.
        recipe: The recipe.
        work: Work folder that all nodes share.
        options: See :func:`mblip.executors.executor_settings`.
        progress: Called with the number of finished parts while it waits for Slurm.

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
