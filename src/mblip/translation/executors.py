"""The parts of a translation as datatrove tasks, for Slurm and Ray clusters: the one place that knows of datatrove.

A task is a part, and a part is the same wherever it is made; so a lost node, a killed job or another executor in the
middle costs at most the parts that were under way. All nodes must see the work folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mblip.config import DataRecipe
from mblip.corpora.sampling import sample_sources
from mblip.errors import InputError, RemoteError, nearest
from mblip.translation.stage import Part, claim_sources, finish, write_part

EXECUTORS = ("slurm", "ray")
_NEEDED = {"slurm": ("time", "partition"), "ray": ()}


def launch(executor: str, recipe: DataRecipe, work: Path, options: Mapping[str, str]) -> bool:
    """Translate every source of a recipe on a cluster; whether it is finished.

    Ray is waited for. Slurm jobs are only submitted: run the same command again when they are done, which writes the
    manifests (or submits what is missing).

    Args:
        executor: ``slurm`` or ``ray``.
        recipe: What is translated, and how.
        work: Work folder that all nodes share.
        options: Of datatrove's executor, such as ``partition``, ``time``, ``cpus_per_task``, ``gpus_per_task``,
            ``mem_per_cpu_gb``, ``workers``; for Ray also ``address``.

    Raises:
        InputError: An unknown executor or option, one that is missing, or no ``sbatch`` on this machine.
    """
    settings = _settings(executor, options)
    stages = sample_sources(recipe, work)
    sources = [source for source in recipe.sources if source.translate]
    parts = claim_sources(recipe, sources, work)
    if not all(part.mark.exists() for part in parts):
        _run(executor, parts, work, settings)
    if not all(part.mark.exists() for part in parts):
        return False
    for source in sources:
        finish(recipe, source, work, stages[source.name])
    return True


def _run(executor: str, parts: Sequence[Part], work: Path, settings: dict[str, Any]) -> None:
    logs = work / "logs" / "translate"
    for rank, part in enumerate(parts):
        if not part.mark.exists():  # whatever an earlier run noted
            (logs / "completions" / f"{rank:05d}").unlink(missing_ok=True)
    step = _step(list(parts))
    if executor == "slurm":
        from datatrove.executor.slurm import SlurmPipelineExecutor

        if not shutil.which("sbatch"):
            raise InputError("there is no sbatch here; run this on a login node of the Slurm cluster")
        SlurmPipelineExecutor([step], len(parts), logging_dir=str(logs), job_name="mblip-translate", **settings).run()
        return
    import ray
    from datatrove.executor.ray import RayPipelineExecutor

    address = settings.pop("address", "auto")
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except ConnectionError as error:
            raise RemoteError(f"no Ray cluster answers at {address!r}; start one with ray start --head") from error
    RayPipelineExecutor([step], len(parts), logging_dir=str(logs), **settings).run()


def _step(parts: list[Part]) -> Any:
    try:
        from datatrove.pipeline.base import PipelineStep
    except ImportError as error:
        raise InputError("clusters need datatrove; pip install 'mblip[translate,ray]'") from error

    class TranslateParts(PipelineStep):  # type: ignore[misc]
        """Makes the part whose number is the task's."""

        type = "mblip"
        name = "translate"

        def __init__(self, parts: list[Part]) -> None:
            super().__init__()
            self.parts = parts

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
            write_part(self.parts[rank])

    return TranslateParts(parts)


def _settings(executor: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Options as the executor's parameters, numbers as numbers."""
    if executor not in EXECUTORS:
        raise InputError(f"there is no executor {executor!r}{nearest(executor, EXECUTORS)}")
    known = _KNOWN[executor]
    for name in options:
        if name not in known:
            raise InputError(f"the executor {executor!r} has no option {name!r}{nearest(name, known)}")
    for name in _NEEDED[executor]:
        if name not in options:
            raise InputError(f"the executor {executor!r} needs the option {name}=...")
    try:
        return {name: known[name](value) for name, value in options.items()}
    except ValueError as error:
        raise InputError(f"an option of the executor {executor!r} is not a number: {error}") from error


_RESOURCES = {"cpus_per_task": int, "gpus_per_task": int, "mem_per_cpu_gb": float, "workers": int, "tasks_per_job": int}
_KNOWN: dict[str, dict[str, type]] = {
    "slurm": _RESOURCES | {"mem_per_cpu_gb": int, "time": str, "partition": str, "qos": str, "env_command": str,
                           "venv_path": str, "condaenv": str, "max_array_size": int},
    "ray": _RESOURCES | {"address": str},
}  # fmt: skip
