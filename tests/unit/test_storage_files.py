from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mblip.errors import InputError
from mblip.schema import Drop, Prediction
from mblip.storage import (
    JsonlAppender,
    JsonlWriter,
    atomic_folder,
    atomic_path,
    atomic_write,
    parse_record,
    read_jsonl,
    read_records,
    sha256_file,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    for text in ("first", "second"):
        with atomic_write(path, "w") as file:
            file.write(text)
    assert path.read_text() == "second"
    assert names(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_anything_that_goes_wrong_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_umask_applies_as_to_any_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_killed_process_leaves_the_old_file_and_its_rest_goes_at_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import os, signal, sys\n"
        "from mblip.storage import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    with atomic_write(path) as file:
        file.write(b"new")
    assert names(tmp_path) == ["file"]
    assert path.read_text() == "new"


def test_the_temporary_of_a_living_writer_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
        with atomic_write(path) as file:
            file.write(b"3")
        assert first.exists()
        assert second.exists()
    assert path.read_text() == "1"
    assert names(tmp_path) == ["file"]


def test_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import resource, signal, sys\n"
        "from mblip.errors import ResourceError\n"
        "from mblip.storage import atomic_write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with atomic_write(sys.argv[1]) as file:\n"
        "        file.write(bytes(100_000))\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"cannot write {path}: File too large; free the space"), done.stderr
    assert done.stderr == ""
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot write .*file/x"), atomic_write(tmp_path / "file" / "x") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"cannot write .*directory"), atomic_write(tmp_path) as file:
        file.write(b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        code = 1
        try:
            os.setuid(65534)
            write_json(tmp_path / "x.json", {})
        except InputError as error:
            code = 0 if "denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert names(tmp_path) == []


def test_an_error_about_another_file_is_not_relabelled(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_write(tmp_path / "file"):
        (tmp_path / "missing").read_text()
    assert names(tmp_path) == []


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "export"
    for name in ("first", "second"):
        with atomic_folder(path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / name).write_text(name)
            assert not (path / "sub" / name).exists()
        assert names(path / "sub") == [name]
        assert names(tmp_path) == ["export"]


def test_whoever_may_read_a_folder_may_read_its_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_folder(tmp_path / "export") as folder:
        for name, mode in (("closed", 0o600), ("program", 0o700)):
            (folder / name).touch()
            (folder / name).chmod(mode)
    usual = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "export/closed").stat().st_mode == usual
    assert (tmp_path / "export/program").stat().st_mode == usual | 0o100


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_a_folder_that_goes_wrong_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "old").write_text("old")
    with pytest.raises(type(error)), atomic_folder(tmp_path / "export") as folder:
        (folder / "new").write_text("half")
        raise error
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["old"]


def test_the_rest_of_a_killed_folder_goes_at_the_next_write(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from mblip.storage import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'weights').write_bytes(bytes(100))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "export")], check=False)
    assert len(names(tmp_path)) == 1
    assert not (tmp_path / "export").exists()
    with atomic_folder(tmp_path / "export"):
        pass
    assert names(tmp_path) == ["export"]


def test_a_folder_cannot_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write .*export: Not a directory"), atomic_folder(tmp_path / "export"):
        pass
    with pytest.raises(InputError, match=r"cannot write .*export/x"), atomic_folder(tmp_path / "export" / "x"):
        pass
    assert names(tmp_path) == ["export"]


def test_write_json_refuses_what_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Ünï", "n": 1})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "Ünï", "n": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["n"] == 1


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a").write_bytes(b"abc")
    (tmp_path / "d" / "sub" / "b").write_bytes(b"")
    assert sha256_file(tmp_path / "d" / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match="cannot read"):
        sha256_file(tmp_path / "nothing")


PREDICTION = Prediction("sw-0", "marvl", "sw", ("a.jpg", "b.jpg"), "Sawa?", "ndiyo\n\0 # é")


def test_jsonl_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with JsonlAppender(path) as file:
        file.append(PREDICTION)
        file.append({"id": "x"})
    with JsonlAppender(path) as file:
        file.append({"id": "y"})
    assert [row["id"] for row in read_jsonl(path)] == ["sw-0", "x", "y"]
    with JsonlWriter(tmp_path / "whole.jsonl") as whole:
        whole.write(PREDICTION)
        assert not (tmp_path / "whole.jsonl").exists()
    assert whole.count == 1
    assert list(read_records(tmp_path / "whole.jsonl", Prediction)) == [PREDICTION]


def test_a_lone_surrogate_survives_in_json_lines(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "x.jsonl") as file:
        file.write(Drop("1", "coco", "not text", "\ud800 é"))
    assert next(read_records(tmp_path / "x.jsonl", Drop)).detail == "\ud800 é"


def test_jsonl_writer_appears_only_when_all_went_well(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), JsonlWriter(tmp_path / "x.jsonl") as file:
        file.write({"a": 1})
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [0, 1, 20, 70_000])
def test_an_unfinished_last_line_goes_when_the_run_continues(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.jsonl"
    complete = json.dumps({"id": "1", "text": "x" * length}) + "\n"
    path.write_text(complete * 2 + complete[: length + 5])
    with pytest.raises(InputError, match=r"x.jsonl, line 3 is not valid JSON \(the file is cut off\)"):
        list(read_jsonl(path))
    with JsonlAppender(path) as file:
        file.append({"id": "3"})
    assert [row["id"] for row in read_jsonl(path)] == ["1", "1", "3"]


def test_what_was_appended_is_on_disk_before_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from mblip.storage import JsonlAppender\n"
        "file = JsonlAppender(sys.argv[1])\n"
        "for i in range(100): file.append({'id': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.jsonl")], check=False)
    assert [row["id"] for row in read_jsonl(tmp_path / "x.jsonl")] == list(range(100))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2 is not valid JSON: "),
        (b'{"a": 1}\n\n[1]\n', "line 3 is not a JSON object but list"),
        (b'{"a": "\xff"}\n', "line 1: the byte 0xFF is not UTF-8; save the file as UTF-8"),
        (b'{"a": 1}\n{"a\0": "1"}\n', "line 2 is not valid JSON: .*control character"),
        (b'{"a": 1', r"line 1 is not valid JSON \(the file is cut off\)"),
        (b"[" * 100_000, "line 1 is not valid JSON"),
    ],
    ids=["broken", "a list", "not UTF-8", "NUL", "cut off", "too deep"],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_jsonl(path))


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing"):
        list(read_jsonl(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"cannot write .*: Is a directory; it is a folder"):
        JsonlAppender(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "source": "s"}, "lacks 'reason'"),
        ({"id": "1", "source": "s", "reason": "r", "why": "x"}, "unknown field 'why'"),
        ({"id": 1, "source": "s", "reason": "r"}, "'id' must be a text, not 1"),
    ],
)
def test_records_of_another_shape_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{message}"):
        parse_record(Drop, row, "here")


def test_image_keys_must_be_a_list_of_texts() -> None:
    row = {"id": "1", "benchmark": "b", "language": "en", "prompt": "", "answer": ""}
    for images in ("a.jpg", [1], None):
        with pytest.raises(InputError, match="'images' must be a list of texts"):
            parse_record(Prediction, {**row, "images": images}, "here")
