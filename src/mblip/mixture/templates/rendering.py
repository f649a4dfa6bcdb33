"""Templates, and how they turn examples into instructions."""

from __future__ import annotations

import string
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mblip import plugins
from mblip.errors import InputError, nearest
from mblip.languages import LANGUAGES, Profile
from mblip.schema import Example, Instruction
from mblip.storage import reading_text

TEXT_ONLY = "text"
"""The shipped file for rows without a picture."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt and its answer, with ``{role}`` for a text of the example and ``{language}`` for the answer's language.

    Attributes:
        task: The task of the examples it is for.
        prompt_roles: Roles that the prompt shows, in order.
        answer_roles: Roles that the answer shows; ``{language}`` names the language of the first.
        language: mC4 code of the prompt's own words. English prompts serve every language, others only their own.
    """

    task: str
    prompt: str
    answer: str
    prompt_roles: tuple[str, ...]
    answer_roles: tuple[str, ...]
    language: str = "en"


for _path in sorted((Path(str(resources.files("mblip.mixture"))) / "templates").glob("*.yaml")):
    plugins.templates.register(_path.stem, _path, plugins.OWN)


class Templates:
    """The templates of all tasks.

    Args:
        by_task: The recipe's templates by task.
        profile: ``original`` for the names of languages in the original's prompts.
        text_only: Templates for rows without a picture, for tasks that ``by_task`` lacks.

    Attributes:
        text_only: As above.
    """

    def __init__(
        self,
        by_task: dict[str, list[Template]],
        profile: Profile = "correct",
        text_only: dict[str, list[Template]] | None = None,
    ) -> None:
        self._english = by_task
        self.text_only = {task: rows for task, rows in (text_only or {}).items() if task not in by_task}
        self._own: dict[tuple[str, str], list[Template]] = {}
        self._names = {code: language.in_profile(profile).name for code, language in LANGUAGES.items()}

    def add(self, templates: Iterable[Template]) -> None:
        """Add templates in other languages; examples in these languages alternate between them and the English ones."""
        for template in templates:
            key = template.task, template.language
            self._own.setdefault(key, list(self._english[template.task])).append(template)

    def english(self) -> list[tuple[str, Template]]:
        """The English templates with their tasks."""
        return [(task, template) for task, templates in self._english.items() for template in templates]

    def name_language(self, prompt: str, language: str) -> str:
        """Fill in the answer's language in a prompt, and keep its other fields."""
        return prompt.replace("{language}", self._names[language])

    def check(self, example: Example) -> None:
        """Check that every template of an example's task fits it; an example with its own prompt needs none.

        Raises:
            InputError: As in :meth:`render`.
        """
        for template in self._choices(example):
            for role in (*template.prompt_roles, *template.answer_roles):
                if role not in example.texts:
                    raise _lacks(example, role, template)

    def render(self, example: Example) -> Instruction:
        """Make an instruction with one of the task's templates, chosen by the example's id.

        An example with its own prompt (the role ``prompt``) is used unchanged, with its ``answer``.

        Raises:
            InputError: There is no template for the task, or the example lacks a text that the template shows.
        """
        choices = self._choices(example)
        languages = example.languages
        if choices is _AS_IT_IS:
            return _as_it_is(example)
        own = self._own.get((example.task, languages.get(choices[0].answer_roles[0], "")), choices)
        template = own[zlib.crc32(example.id.encode()) % len(own)]
        try:
            answer_language = languages[template.answer_roles[0]]
            fields = {"language": self._names[answer_language], **example.texts}
            prompt, answer = template.prompt.format_map(fields), template.answer.format_map(fields)
        except KeyError as error:
            raise _lacks(example, error.args[0], template) from error
        prompt_language = languages[template.prompt_roles[0]] if template.prompt_roles else template.language
        return Instruction(
            example.id,
            example.source,
            example.task,
            example.images,
            prompt,
            answer,
            prompt_language,
            answer_language,
        )

    def _choices(self, example: Example) -> list[Template]:
        if has_prompt(example):
            return _AS_IT_IS
        choices = self._english.get(example.task) or self.text_only.get(example.task)
        if not choices:
            hint = nearest(example.task, self._english)
            raise InputError(f"example {example.id!r}: no template for the task {example.task!r}{hint}")
        return choices


_AS_IT_IS = [Template("", "{prompt}", "{answer}", ("prompt",), ("answer",))]


def has_prompt(example: Example) -> bool:
    """Whether an example has its own prompt, so that it needs no template."""
    return "prompt" in example.texts


def _as_it_is(example: Example) -> Instruction:
    texts, languages = example.texts, example.languages
    for role in ("prompt", "answer"):
        if role not in texts:
            raise _lacks(example, role, _AS_IT_IS[0])
    return Instruction(
        example.id,
        example.source,
        example.task,
        example.images,
        texts["prompt"],
        texts["answer"],
        languages["prompt"],
        languages["answer"],
    )


def _lacks(example: Example, role: str, template: Template) -> InputError:
    return InputError(f"example {example.id!r} has no text {role!r}, which the template {template.prompt!r} shows")


def load_templates(names: tuple[str, ...], profile: Profile = "correct") -> Templates:
    """Load template files, shipped ones by name and others by path; later files replace tasks of earlier ones.

    For rows without a picture, tasks that these files lack have templates of their own (:data:`TEXT_ONLY`).

    Raises:
        InputError: There is no such file, or it is not a mapping of tasks to lists of prompt and answer.
    """
    by_task: dict[str, list[Template]] = {}
    for name in names:
        path = find_templates(name)
        by_task |= {task: _parse_task(path, task, rows) for task, rows in _read(path).items()}
    path = find_templates(TEXT_ONLY)
    return Templates(by_task, profile, {task: _parse_task(path, task, rows) for task, rows in _read(path).items()})


def shipped_templates() -> dict[str, Path]:
    """The template files of mblip and of other packages by name."""
    return dict(plugins.templates.usable())


def find_templates(name: str) -> Path:
    """The path of a template file, from a path or the name of a shipped one.

    Raises:
        InputError: There is neither.
    """
    if name in plugins.templates:
        path: Path = plugins.templates[name]
        return path
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"no template file or shipped templates {name!r}{plugins.templates.hint(name)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with reading_text(path):
            tasks = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tasks, dict):
        raise InputError(f"{path} must map each task to a list of templates")
    return tasks


def _parse_task(path: Path, task: str, rows: Any) -> list[Template]:
    templates = []
    for row in rows if isinstance(rows, list) else [{}]:
        texts = isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
        if not texts or row.keys() != {"prompt", "answer"}:
            raise InputError(f"{path}: every template of {task!r} must be {{prompt: ..., answer: ...}}, not {row!r}")
        answer_roles = _roles(path, row["answer"])
        if not answer_roles:
            raise InputError(
                f"{path}: the answer {row['answer']!r} of {task!r} contains no field of the example, such as {{answer}}"
            )
        templates.append(Template(task, row["prompt"], row["answer"], _roles(path, row["prompt"]), answer_roles))
    return templates


def _roles(path: Path, text: str) -> tuple[str, ...]:
    try:
        fields = [field for _, field, form, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise InputError(f"{path}: {text!r} has a brace that is not closed ({error})") from error
    for field in fields:
        if not field.isidentifier():
            raise InputError(f"{path}: {{{field}}} in {text!r} is not the name of a text; double a brace to show it")
    return tuple(field for field in fields if field != "language")
