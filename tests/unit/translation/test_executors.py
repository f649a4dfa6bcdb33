"""Clusters: the script that Slurm gets, and a real Ray cluster that loses a node in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.folders import hash_directory

from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError
from mblip.translation import translate_sources
from mblip.translation.executors import launch
from mblip.translation.stage import write_part

pytest.importorskip("datatrove")
OVERRIDES = ("sources.scenes.options.scenes=3000", "translation.rows_per_task=1024")


def _recipe() -> DataRecipe:
    return load_recipe(DataRecipe, "data/nano_scenes", OVERRIDES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    work = tmp_path_factory.mktemp("whole")
    translate_sources(_recipe(), work)
    return hash_directory(work / "translated")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch that keeps the script it is given."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncp "$(eval echo \\${{$#}})" {tmp_path}/script.$$\necho "Submitted batch job 7"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def _scripts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("script.*"))]


def test_slurm_script_and_its_pickled_tasks(slurm: Path, whole: str) -> None:
    import dill

    work = slurm / "work"
    options = {"partition": "gpu", "time": "04:00:00", "gpus_per_task": "1", "cpus_per_task": "4", "workers": "3"}
    assert launch("slurm", _recipe(), work, options) is False
    script = next(text for text in _scripts(slurm) if "--array=0-8" in text)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in ("--partition=gpu", "--time=04:00:00", "--gpus=1", "--cpus-per-task=4", "--array=0-8%3"):
        assert f"#SBATCH {line}" in lines
    assert f"launch_pickled_pipeline {work}/logs/translate/executor.pik" in script
    with (work / "logs/translate/executor.pik").open("rb") as file:
        executor = dill.load(file)
    assert executor.world_size == 9
    for rank in range(9):
        executor.pipeline[0].run(None, rank, 9)
    assert launch("slurm", _recipe(), work, options) is True
    assert hash_directory(work / "translated") == whole


def test_tasks_noted_as_done_whose_parts_are_gone_run_again(slurm: Path) -> None:
    work = slurm / "work"
    options = {"partition": "cpu", "time": "1:00:00"}
    launch("slurm", _recipe(), work, options)
    completions = work / "logs/translate/completions"
    completions.mkdir()
    for rank in range(9):
        (completions / f"{rank:05d}").touch()
    launch("slurm", _recipe(), work, options)
    assert not list(completions.iterdir())


@pytest.mark.parametrize(("executor", "options", "message"), [
    ("slrm", {}, "no executor 'slrm'; did you mean 'slurm'"),
    ("slurm", {"partition": "gpu"}, "needs the option time="),
    ("slurm", {"partition": "gpu", "time": "1", "gpu_per_task": "1"}, "did you mean 'gpus_per_task'"),
    ("ray", {"workers": "many"}, "is not a number"),
])  # fmt: skip
def test_wrong_options(tmp_path: Path, executor: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launch(executor, _recipe(), tmp_path, options)
    assert not list(tmp_path.iterdir())


def test_slurm_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch here"):
        launch("slurm", _recipe(), tmp_path / "work", {"partition": "x", "time": "1"})


RAY = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from mblip.config import DataRecipe, load_recipe
from mblip.translation import stage
from mblip.translation.executors import launch

work = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
killed = []

def lose_node():
    marks = work / "translated/scenes"
    while len(list(marks.glob("exclusions-*.jsonl"))) < 2:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    killed.append(len(list(marks.glob("exclusions-*.jsonl"))))

thread = threading.Thread(target=lose_node)
thread.start()
recipe = load_recipe(DataRecipe, "data/nano_scenes", tuple(sys.argv[2:]))
done = launch("ray", recipe, work, {"mem_per_cpu_gb": "0.2"})
thread.join()
for _ in range(60):  # the cluster takes a while to call a node dead
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        break
    time.sleep(0.5)
print("RESULT", done, killed, len(ray.nodes()), sum(node["Alive"] for node in ray.nodes()))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_ray_cluster_that_loses_a_node(tmp_path: Path, whole: str) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-c", RAY, str(tmp_path / "work"), *OVERRIDES]
    environment = os.environ | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    assert result.startswith("RESULT True ["), result
    assert int(result.partition("[")[2].partition("]")[0]) < 9, "the node was lost too late"
    assert result.endswith(" 2 1"), result  # two nodes, one alive
    assert hash_directory(tmp_path / "work/translated") == whole


def test_a_part_is_the_same_whoever_makes_it(tmp_path: Path, whole: str) -> None:
    from mblip.corpora import sample_sources
    from mblip.translation.stage import claim_sources, finish

    recipe = _recipe()
    stages = sample_sources(recipe, tmp_path)
    for part in reversed(claim_sources(recipe, recipe.sources, tmp_path)):
        write_part(part)
    finish(recipe, recipe.sources[0], tmp_path, stages["scenes"])
    assert hash_directory(tmp_path / "translated") == whole
