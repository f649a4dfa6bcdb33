"""The code blocks of a page, and a shell that runs them as a reader would.

Markers in a page's source, as comments on the line before a block or below the title:

``<!-- after: PAGE -->``       below the title: the page goes on in the folder that another page leaves behind
``<!-- not run: needs ... -->``  the block is only parsed, for it needs what a test machine lacks
``<!-- exit code 1 -->``        the block's last command ends with this code
``<!-- runs beside -->``        the block is a server: it runs until the page ends

A block with ``title="FILE"`` is that file, and is written where the page's commands run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

SERVER = Path(__file__).with_name("warm.py")
SHELL = ("bash", "console")
FILES = ("python", "yaml", "csv", "json", "jsonl", "toml", "text")
PORTS = ("127.0.0.1:8000", "127.0.0.1:7860")
"""Addresses that pages name; a test has a free port for each."""


@dataclass(frozen=True)
class Block:
    """One block of a page, with its markers."""

    page: Path
    line: int
    language: str
    title: str
    text: str
    not_run: str = ""
    exit_code: int = 0
    beside: bool = False

    @property
    def name(self) -> str:
        """Page and line, to be found again."""
        return f"{self.page.name}:{self.line}"

    @property
    def script(self) -> str:
        """The commands of a block: of a console, the lines after the prompt and what continues them."""
        if self.language != "console":
            return self.text
        kept, goes_on = [], False
        for line in self.text.splitlines():
            if goes_on or line.startswith("$ "):
                kept.append(line if goes_on else line[2:])
                goes_on = line.endswith("\\")
        return "\n".join(kept)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, markers, lines = [], "", page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line, number = lines[number], number + 1
        if opened := re.match(r"( *)```(\w*) *(.*)$", line):
            indent, language, info = opened.groups()
            start = number
            while lines[number].strip() != "```":
                number += 1
            title = re.search(r'title="([^"]+)"', info)
            not_run = re.search(r"<!-- not run: (.+?) -->", markers)
            code = re.search(r"<!-- exit code (\d+) -->", markers)
            found.append(
                Block(
                    page, start, language, title[1] if title else "",
                    "\n".join(part.removeprefix(indent) for part in lines[start:number]) + "\n",
                    not_run[1] if not_run else "", int(code[1]) if code else 0, "<!-- runs beside -->" in markers,
                )
            )  # fmt: skip
            number, markers = number + 1, ""
        elif line.strip().startswith("<!--"):
            markers += line
        elif line.strip():
            markers = ""
    return found


def comes_after(page: Path) -> Path | None:
    """The page whose folder a page goes on in."""
    named = re.search(r"<!-- after: (\S+) -->", page.read_text(encoding="utf-8"))
    return (page.parent / named[1]).resolve() if named else None


def trouble(block: Block) -> str:
    """What is wrong with a block that can be told without running it, or nothing."""
    if block.language not in (*SHELL, *FILES):
        return f"the language {block.language!r} is none of {(*SHELL, *FILES)}"
    if block.not_run and not block.not_run.startswith("needs "):
        return "a block is left out for what it needs, and says so"
    try:
        if block.language == "python":
            compile(block.text, block.name, "exec")
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
    except (SyntaxError, yaml.YAMLError, ValueError) as error:
        return str(error)
    if block.language in SHELL:
        if block.language == "console" and not block.script:
            return "a console without a prompt"
        done = subprocess.run(["bash", "-n"], input=block.script, capture_output=True, text=True, check=False)
        return done.stderr
    return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Reader:
    """Runs pages, each in a folder and a bash of its own, with the package and nothing else.

    ``mblip``, ``python`` and ``pip`` are small programs that hand their arguments, folder, environment and open files to one
    warm process (``tests/warm.py``), which forks: a command is what it is elsewhere, but torch is imported once for all.
    ``pip`` fetches nothing: it checks that the package has the extras that are named, and takes a folder in.
    With ``short`` what trains for minutes is cut to a few steps.
    """

    def __init__(self, folder: Path, short: bool) -> None:
        self.folder, self.short = folder, short
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.socket = Path(tempfile.mkdtemp(prefix="mblip")) / "s"  # an address has at most some 100 characters
        self._warm: subprocess.Popen[bytes] | None = None
        self._left: dict[Path, Path] = {}
        for made in (self.home, self.bin):
            made.mkdir(parents=True)
        for name in ("mblip", "python", "pip"):
            program = self.bin / name
            program.write_text(f"#!{sys.executable} -SE\n{_CLIENT}", encoding="utf-8")
            program.chmod(0o755)

    def _start(self) -> None:
        if self._warm is None:
            self._warm = subprocess.Popen(
                [sys.executable, str(SERVER), str(self.socket), *(["--short"] if self.short else [])],
                env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            while not self.socket.exists():
                assert self._warm.poll() is None, "the warm process ended"
                time.sleep(0.05)

    def close(self) -> None:
        """End the warm process and everything that it runs."""
        if self._warm is not None:
            os.killpg(self._warm.pid, signal.SIGKILL)
            self._warm.wait()
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    def read(self, page: Path, timeout: float) -> Path:
        """Run a page, after the page that it goes on from; the folder that it leaves.

        Raises:
            AssertionError: A command ended otherwise than the page says; with what it printed.
        """
        if page in self._left:
            return self._left[page]
        before = comes_after(page)
        folder = self.folder / page.stem
        if before is None:
            folder.mkdir()
        else:
            shutil.copytree(self.read(before, timeout), folder, symlinks=True)
        self._start()
        ports = {address: _free_port() for address in PORTS}
        script = self._script(page, folder, ports)
        environment = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src")),
            "MBLIP_TEST_SOCKET": str(self.socket), "MBLIP_TEST_PYTHON": sys.executable,
            "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "MBLIP_TEST_SITE": str(self.bin / f"{page.stem}.site"), "MBLIP_TEST_PORTS": ",".join(map(str, ports.values())),
        }  # fmt: skip
        said = self.folder / f"{page.stem}.out"
        with said.open("w", encoding="utf-8") as output:
            shell = subprocess.Popen(
                ["bash", "-c", script], cwd=folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                code: object = shell.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                code = f"nothing within {timeout} s"
        assert code == 0, f"{page.name} ended with {code}:\n{said.read_text(encoding='utf-8')}"
        self._left[page] = folder
        return folder

    def _script(self, page: Path, folder: Path, ports: dict[str, int]) -> str:
        parts = ["set -eo pipefail"]
        for block in blocks(page):
            text = block.text if block.language not in SHELL else block.script
            for address, port in ports.items():
                text = text.replace(address, f"127.0.0.1:{port}")
            if block.title:
                (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                # A file appears when the reader comes to it: a later block may be another edition of it.
                held = self.bin / f"{page.stem}-{block.line}.file"
                held.write_text(text, encoding="utf-8")
                parts.append(f"cp {shlex.quote(str(held))} {shlex.quote(block.title)}")
            elif block.not_run or block.language not in (*SHELL, "python"):
                continue
            elif block.language == "python":
                held = self.bin / f"{page.stem}-{block.line}.py"
                held.write_text(text, encoding="utf-8")
                parts.append(f"echo '--- {block.name}'; python {shlex.quote(str(held))}")
            elif block.beside:
                port = ports[PORTS[1 if "demo" in text else 0]]
                parts.append(
                    f"echo '--- {block.name}'\n(exec {text.strip()}) & beside=$!\n"
                    f"until curl -so /dev/null http://127.0.0.1:{port}/health; do kill -0 $beside; sleep 0.1; done"
                )
            elif block.exit_code:
                parts.append(
                    f"echo '--- {block.name}'; set +e\n{text}\ncode=$?; set -e; test $code = {block.exit_code}"
                )
            else:
                parts.append(f"echo '--- {block.name}'\n{text}")
        parts.append('if [ -n "${beside:-}" ]; then kill -TERM $beside; wait $beside; fi')
        return "\n".join(parts)


# Runs without site-packages, in some 20 ms.
_CLIENT = textwrap.dedent(
    """
    import json, os, signal, socket, sys
    link = socket.socket(socket.AF_UNIX)
    link.connect(os.environ["MBLIP_TEST_SOCKET"])
    wanted = {"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(link, [b"x"], [0, 1, 2])
    sent = json.dumps(wanted).encode()
    link.sendall(len(sent).to_bytes(8, "big") + sent)
    pid = int.from_bytes(link.recv(8), "big")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = link.recv(1)
    sys.exit(code[0] if code else 137)
    """
)
