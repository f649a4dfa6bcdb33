"""Captions in tasks: the split, a task that is cut off anywhere, tasks done by strangers, and the file they make together."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import checkpoints
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.executors import Place
from mblip.inference import caption_tasks
from mblip.inference.caption_plan import Output, Plan, make_plan
from mblip.inference.caption_tasks import caption_shard, merge
from mblip.inference.finding import Found, find_pictures
from mblip.storage.tars import Member

CODES = ["sw", "de", "ja"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.blip2(tmp_path_factory.mktemp("tiny"), "mt5"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder of seven pictures and one that is none, a tar of six, a table of two of the first."""
    root = tmp_path_factory.mktemp("sources")
    (root / "photos").mkdir()
    rng = np.random.default_rng(5)
    with tarfile.open(root / "more.tar", "w") as tar:
        for number in range(13):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(data, "PNG")
            if number < 7:
                (root / "photos" / f"{number}.png").write_bytes(data.getvalue())
            else:
                member = tarfile.TarInfo(f"./in/{number}.png")
                member.size = len(data.getvalue())
                tar.addfile(member, io.BytesIO(data.getvalue()))
                tar.addfile(tarfile.TarInfo(f"in/{number}.json"))
    (root / "photos/3b.jpg").write_text("not a picture")
    (root / "table.csv").write_text("image\nphotos/1.png\nphotos/0.png\nhttp://a/b.png\n")
    return [str(root / "photos"), str(root / "more.tar"), str(root / "table.csv")]


def _plan(to: Path, sources: list[str], model: str, tasks: int = 4, resume: bool = False) -> tuple[Output, Plan]:
    output = Output(to)
    plan, same = make_plan(
        output, find_pictures(sources), model=model, languages=CODES, sources=sources, tasks=tasks, resume=resume,
        generation={"num_beams": 1, "max_new_tokens": 3}, quantization="none", batch_size=6,
    )  # fmt: skip
    assert same
    return output, plan


def _once(sources: list[str], model: str, to: Path, *more: str) -> int:
    command = ["caption", *sources, "--language", ",".join(CODES), "--model", model, "--to", str(to), "--beams", "1"]
    options = ["--max-tokens", "3", "--batch-size", "6", "--quantization", "none", *more]
    return CliRunner().invoke(app, [*command, *options]).exit_code


def test_tasks_that_are_cut_off_make_the_file_of_one_process(
    tmp_path: Path, sources: list[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _once(sources, model, tmp_path / "one.csv") == 1  # some could not be read
    output, plan = _plan(tmp_path / "many.csv", sources, model)
    assert [plan.bounds(number) for number in range(4)] == [(0, 3), (3, 7), (7, 10), (10, 14)]
    for shard in reversed(plan.shards):
        caption_shard(shard, Place())
    cut = plan.shards[1]
    cut.mark.unlink()
    data = cut.rows.read_bytes()
    cut.rows.write_bytes(data[: len(data) // 2])
    caption_shard(cut, Place())
    assert cut.rows.read_bytes() == data
    monkeypatch.setattr(caption_tasks, "_caption", lambda *_: pytest.fail("a finished task was repeated"))
    for shard in plan.shards:
        caption_shard(shard, Place())
    skipped = merge(output, plan)
    assert [problem.key for problem in skipped] == [f"{sources[2]}, row 3", f"{sources[0]}/3b.jpg"]
    for ending in ("csv", "csv.skipped.jsonl"):
        assert (tmp_path / f"many.{ending}").read_bytes() == (tmp_path / f"one.{ending}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "many.csv", "many.csv.skipped.jsonl", "one.csv", "one.csv.skipped.jsonl",
    ]  # fmt: skip


def _fake(plan: Plan, shards: list[int] | None = None) -> None:
    """Finish tasks with made-up captions."""
    for shard in plan.shards:
        if shards is None or shard.number in shards:
            caption_shard(shard, Place())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions without a model; pictures with ``bad`` in their names cannot be read."""
    from mblip.inference.caption_file import Caption
    from mblip.storage import UnreadableImage

    def made(plan: Plan, left: list[object], done: object, place: Place) -> list[object]:
        lacking = [[code for code in plan.languages if (str(one), code) not in done] for one in left]  # type: ignore[operator]
        return [
            UnreadableImage(str(one), "it is bad") if "bad" in str(one)
            else [Caption(str(one), code, f"{code} of {one}", plan.model) for code in codes]
            for one, codes in zip(left, lacking, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr(caption_tasks, "_caption", made)


def _made_up(folder: Path, count: int, *bad: int) -> list[str]:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}{'bad' if number in bad else ''}.jpg").touch()
    return [str(folder)]


@pytest.mark.parametrize("tasks", [1, 3, 10, 50])
@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_each_pair_once_in_order(tmp_path: Path, quick: None, tasks: int, ending: str) -> None:
    sources = _made_up(tmp_path / "photos", 10, 4, 9)
    output, plan = _plan(tmp_path / f"c.{ending}", sources, "m", tasks)
    assert plan.tasks == min(tasks, 10)
    _fake(plan)
    assert [problem.key for problem in merge(output, plan)] == [f"{sources[0]}/004bad.jpg", f"{sources[0]}/009bad.jpg"]
    expected = [(f"{sources[0]}/{n:03}.jpg", code) for n in range(10) if n not in (4, 9) for code in CODES]
    assert _pairs(output.to) == expected


def _pairs(file: Path) -> list[tuple[str, str]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(file).to_pylist()
    elif file.suffix == ".csv":
        rows = list(csv.DictReader(file.open()))
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [(row["image"], row["language"]) for row in rows]


def test_a_picture_of_a_list_is_skipped_with_its_line(tmp_path: Path, quick: None, model: str) -> None:
    _made_up(tmp_path / "photos", 4, 1, 3)
    names = [f"photos/{name}.jpg" for name in ("000", "001bad", "002", "003bad", "none-bad")]
    (tmp_path / "list.txt").write_text("\n".join(names))
    sources, to = [str(tmp_path / "list.txt")], tmp_path / "captions.jsonl"
    _fake(_plan(to, sources, model, tasks=2)[1])
    assert _once(sources, model, to, "--executor", "local", "--tasks", "2") == 1
    skipped = [json.loads(line) for line in to.with_name("captions.jsonl.skipped.jsonl").read_text().splitlines()]
    reasons = [(row["image"], row["reason"].partition(" (named by ")[2]) for row in skipped]
    assert reasons == [(str(tmp_path / names[line - 1]), f"{sources[0]}, line {line})") for line in (2, 4, 5)]


def test_a_picture_that_took_two_tries_is_in_its_place(tmp_path: Path, quick: None) -> None:
    sources = _made_up(tmp_path / "photos", 6)
    output, plan = _plan(tmp_path / "c.jsonl", sources, "m", 2)
    _fake(plan)
    first = plan.shards[0].rows
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[3:] + lines[:3]))
    merge(output, plan)
    assert _pairs(output.to) == [(f"{sources[0]}/{n:03}.jpg", code) for n in range(6) for code in CODES]


@pytest.mark.parametrize(("change", "says"), [
    (lambda lines: lines + lines[:1], "twice"),
    (lambda lines: lines[1:], "lacks 1 caption,"),
])  # fmt: skip
def test_a_damaged_task_is_not_merged(tmp_path: Path, quick: None, change: object, says: str) -> None:
    output, plan = _plan(tmp_path / "c.jsonl", _made_up(tmp_path / "photos", 6), "m", 2)
    _fake(plan)
    rows = plan.shards[1].rows
    rows.write_text("".join(change(rows.read_text().splitlines(keepends=True))))  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        merge(output, plan)
    assert not output.to.exists()
    assert len(list(plan.folder.glob("*.done"))) == 2


def test_a_finished_file_takes_further_pictures(tmp_path: Path, quick: None) -> None:
    sources = _made_up(tmp_path / "photos", 4)
    for count in (4, 7):
        for number in range(count):
            (tmp_path / "photos" / f"{number:03}.jpg").touch()
        output, plan = _plan(tmp_path / "c.csv", sources, "m", 2, resume=count == 7)
        assert plan.pictures == (4 if count == 4 else 3)
        _fake(plan)
        merge(output, plan)
    assert _pairs(output.to) == [(f"{sources[0]}/{n:03}.jpg", code) for n in range(7) for code in CODES]
    with pytest.raises(InputError, match="already exists: add --resume"):
        _plan(tmp_path / "c.csv", sources, "m", 2)
    assert not (tmp_path / "c.csv.tasks").exists()


def test_a_kill_after_the_file_is_there_ends_well(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = _made_up(tmp_path / "photos", 6)
    output, plan = _plan(tmp_path / "c.csv", sources, "m", 2)
    _fake(plan)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            merge(output, plan)
    before = output.to.read_bytes()
    output, plan = _plan(tmp_path / "c.csv", sources, "m", 2)
    merge(output, plan)
    assert output.to.read_bytes() == before
    assert not plan.folder.exists()


def test_a_folder_keeps_the_tasks_files(tmp_path: Path, quick: None) -> None:
    sources = _made_up(tmp_path / "photos", 5, 2)
    output, plan = _plan(tmp_path / "shards", sources, "m", 2)
    _fake(plan)
    assert len(merge(output, plan)) == 1
    rows = [pair for file in sorted((tmp_path / "shards").glob("captions-*.jsonl"))
            if "skipped" not in file.name for pair in _pairs(file)]  # fmt: skip
    assert rows == [(f"{sources[0]}/{n:03}.jpg", code) for n in (0, 1, 3, 4) for code in CODES]
    assert json.loads((tmp_path / "shards/captions.skipped.jsonl").read_text())["reason"] == "it is bad"
    (tmp_path / "else").mkdir()
    (tmp_path / "else/own.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        _plan(tmp_path / "else", sources, "m", 2)


def test_a_folder_of_another_command_is_left_alone(tmp_path: Path, quick: None) -> None:
    sources = _made_up(tmp_path / "photos", 5)
    _, plan = _plan(tmp_path / "c.csv", sources, "m", 2)
    _, plan = _plan(tmp_path / "c.csv", sources, "other", 3)  # nothing was done for the first
    assert (plan.model, plan.tasks) == ("other", 3)
    _fake(plan, [0])
    with pytest.raises(InputError, match=r"with different model \(other, not m\)"):
        _plan(tmp_path / "c.csv", sources, "m", 3)
    with pytest.raises(InputError, match="split into 3 tasks: give the same --tasks 3"):
        _plan(tmp_path / "c.csv", sources, "other", 4)
    (tmp_path / "photos/new.jpg").touch()
    _, same = make_plan(
        Output(tmp_path / "c.csv"), find_pictures(sources), model="other", languages=CODES, sources=sources, tasks=3,
        resume=False, generation={"num_beams": 1, "max_new_tokens": 3}, quantization="none", batch_size=9,
    )  # fmt: skip
    assert not same


def test_each_task_takes_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mblip.inference import captioning
    from mblip.inference import resolve as choosing

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(choosing, "open_model", lambda *_: None)
    monkeypatch.setattr(captioning, "caption_pictures", lambda *_, **__: iter(()))
    _, plan = _plan(tmp_path / "c.csv", _made_up(tmp_path / "photos", 4), "m", 4)
    for slot in range(4):
        list(caption_tasks._caption(plan, [], (), Place(slot, beside=1)))
    assert chosen == [0, 1, 0, 1]
    assert choosing.gpus() == 2


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path: Path, quick: None) -> None:
    _, plan = _plan(tmp_path / "c.csv", _made_up(tmp_path / "photos", 1), "m")
    found = Found(pictures=["caf\udce9.png", Member("a.tar", "b\udce9.png", 512, 7), "猫\n.png"])
    make_plan(
        Output(tmp_path / "d.csv"), found, model="m", languages=CODES, sources=[], tasks=1, resume=False, generation={},
        quantization="none", batch_size=1,
    )  # fmt: skip
    from mblip.inference.caption_plan import pictures_of, read_plan

    plan = read_plan(tmp_path / "d.csv.tasks")
    assert [wanted.picture for wanted in pictures_of(plan, plan.shards[0])] == found.pictures


@pytest.mark.parametrize(("options", "says"), [
    (["--tasks", "4", "--to", "x.csv"], "are for --executor"),
    (["--executor", "local", "--tasks", "4"], "name it with --to"),
    (["--executor", "slurm", "--to", "x.csv", "--option", "partition=a", "--option", "time=1"], "needs --tasks"),
    (["--executor", "slurm", "--to", "x.csv", "--tasks", "4"], "needs the option time="),
    (["--executor", "local", "--to", "x.csv", "--option", "workers"], "NAME=VALUE"),
    (["--executor", "local", "--to", "x.csv", "--option", "worker=2"], "did you mean 'workers'"),
    (["--executor", "local", "--to", "x.csv", "--option", "workers=0"], "must be more than 0"),
    (["--executor", "local", "--to", "x.txt"], "the ending must be one of"),
    (["--executor", "local", "--to", "x", "--encoding", "utf-8-sig"], "is for a .csv file"),
])  # fmt: skip
def test_wrong_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = _made_up(tmp_path / "photos", 2)
    result = CliRunner().invoke(app, ["caption", *sources, "--language", "sw", "--model", model, *options])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]


def test_slurm_gets_the_tasks_and_the_second_command_joins_them(
    tmp_path: Path, quick: None, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dill = pytest.importorskip("dill")
    pytest.importorskip("datatrove")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    _made_up(tmp_path / "photos", 6)
    options = ["partition=gpu", "time=1:00:00", "mem_per_cpu_gb=4", "gpus_per_task=1"]
    command = ["caption", "photos", "--language", "sw,de,ja", "--model", model, "--to", "c.csv", "--executor", "slurm"]
    command += ["--tasks", "3", *(part for option in options for part in ("--option", option))]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0
    assert "3 tasks are submitted; the same command waits for them and writes c.csv" in first.output
    script = (tmp_path / "c.csv.tasks/logs/launch_script.slurm").read_text()
    for line in (
        "--partition=gpu",
        "--time=1:00:00",
        "--mem-per-cpu=4G",
        "--gpus=1",
        "--array=0-2",
        "--job-name=mblip-caption",
    ):
        assert f"#SBATCH {line}\n" in script
    with (tmp_path / "c.csv.tasks/logs/executor.pik").open("rb") as file:
        executor = dill.load(file)
    monkeypatch.chdir("/")  # as on another node
    for rank in (2, 0, 1):
        executor.pipeline[0].run(None, rank, 3)
    monkeypatch.chdir(tmp_path)
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0
    assert "c.csv: 6 pictures in sw, de, ja" in second.output
    assert _pairs(tmp_path / "c.csv") == [(f"photos/{n:03}.jpg", code) for n in range(6) for code in CODES]


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    for to in (tmp_path / "c.csv", tmp_path / "shards"):
        with (
            Output(to).held(),
            pytest.raises(InputError, match="another process is writing captions"),
            Output(to).held(),
        ):
            pass


def test_a_link_stays_a_link(tmp_path: Path, quick: None) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "c.csv").symlink_to(tmp_path / "disk/real.csv")
    output, plan = _plan(tmp_path / "c.csv", _made_up(tmp_path / "photos", 3), "m", 2)
    _fake(plan)
    merge(output, plan)
    assert (tmp_path / "c.csv").is_symlink()
    assert len(_pairs(tmp_path / "disk/real.csv")) == 9
