"""How easily the texts of this repository read: sentence length, and sentences that begin the wrong way round.

``python tools/readability.py`` prints one row for docstrings, comments, messages and documentation pages; ``--list`` also
prints each sentence that is counted as one that begins the wrong way round. ``--root`` reads another checkout.

A sentence begins the wrong way round if one of these holds. Questions are left out. Both are heuristics: they need no
grammar, miss some inversions and count some sentences that read well.

1. Its first words are Of, What, That, Who, Whoever, Where, Whose or "In what".
2. It begins with an object or a predicate: up to four words that open no clause, then a pronoun with its verb ("Three
   objects it cannot list"), or a prepositional phrase without a comma, then a verb before its subject ("Beside it lies the
   adapter").
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPENING = re.compile(r"(Of|What|That|Who|Whoever|Where|Whose|In what)\b")
VERBS = (
    "is|are|was|were|has|have|had|can|cannot|could|does|do|did|will|would|may|must|should|stands?|lies|lie|comes?|goes|go|"
    "needs?"
)
CLAUSE = (
    "If|When|Whether|While|As|Because|Since|Before|After|Until|Unless|Once|So|And|But|Or|Then|Here|There|Now|Otherwise|Also|"
    "Even|Only|Although|Though|How|Why|Which|Wherever|Whenever|Whatever|However|Therefore|This|These|Those|Each|Every|Both|All"
)
NO_RELATIVE = "".join(f"(?<! {word})" for word in ("that", "which", "as", "if", "than", "where"))
PRONOUN_FIRST = re.compile(
    rf"(?!(?:{CLAUSE})\b)[A-Z][\w'-]*(?: [\w'-]+){{0,3}}{NO_RELATIVE} (?:it|they|we|you|nobody|nothing) (?:{VERBS})\b"
)
VERB_FIRST = re.compile(
    r"(?:In|On|At|Under|Behind|Beside|Above|Below|From|To|With|For|By|Without|Among)\b[^,.:;]{2,45} "
    r"(?:is|are|was|were|stands?|lies|lie|comes?|goes|go) (?:the|a|an|no|its|one|each|every|nothing)\b"
)
# The methods that log or print, whose strings a person reads.
SAYING = {"debug", "info", "warning", "error", "exception", "critical", "log", "print", "echo"}


def plain(text: str) -> str:
    """Text without markup: roles and links by their last word, code as it is written."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[`*]+", "", text)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph. Colons and semicolons do not end one; neither does a list's number."""
    text = " ".join(plain(text).split())
    parts = re.split(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])", text)
    return [part for part in parts if len(words(part)) > 1]


def words(sentence: str) -> list[str]:
    """What stands between spaces and holds a letter or a digit."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def begins_wrong(sentence: str) -> bool:
    """Whether a sentence begins the wrong way round, see the module."""
    if sentence.endswith("?"):
        return False
    bare = sentence.lstrip("\"'(")
    return any(rule.match(bare) for rule in (OPENING, PRONOUN_FIRST, VERB_FIRST))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs, list items and argument descriptions of a docstring in Google's style."""
    found: list[str] = []
    code = False
    for line in [*text.splitlines(), ""]:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if code and (not bare or indent):
            continue
        code = False
        item = re.match(r"(?:[-*] |\d+\. )", bare)
        entry = re.match(r"\*{0,2}[\w.]+: (?=\S)", bare) if indent else None
        if not bare or item or entry or re.fullmatch(r"[A-Z]\w+:", bare) or bare.startswith(("|", ">>>")):
            if found:
                yield " ".join(found)
            found = []
        if bare.startswith(">>>") or re.fullmatch(r"[A-Z]\w+:", bare):
            continue
        if bare:
            found.append(bare[(item or entry).end() :] if (item or entry) else bare)  # type: ignore[union-attr]
        code = bare.endswith("::")


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, its classes and functions, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                for paragraph in paragraphs(text):
                    yield node.body[0].lineno, paragraph


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The comments of a module; lines that follow one another are one comment. Marks for tools are left out."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"# (type:|noqa|fmt:|pragma)|#!", token.string):
            continue
        own = not token.line[: token.start[1]].strip()
        if block and not (own and token.start[0] == last + 1):
            yield first, " ".join(block)
            block = []
        if not block:
            first = token.start[0]
        block.append(re.split(r"\s+# (?:type:|noqa|fmt:)", token.string)[0].lstrip("# "))
        last = token.start[0]
    if block:
        yield first, " ".join(block)


def messages(source: str) -> Iterator[tuple[int, str]]:
    """The strings that are raised, logged or printed, and the help of options; each value in one is a word ``X``."""
    seen: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        roots: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            roots = [*node.exc.args, *(keyword.value for keyword in node.exc.keywords)]
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            roots = list(node.args) if name in SAYING else []
            roots += [keyword.value for keyword in node.keywords if keyword.arg in {"help", "description", "epilog"}]
        for root in roots:
            for value in strings(root):
                if id(value) not in seen:
                    seen.add(id(value))
                    text = said(value)
                    if len(words(text)) > 2:
                        yield value.lineno, text


def strings(node: ast.expr) -> Iterator[ast.expr]:
    """The strings of an expression, outermost first: those inside an f-string belong to it."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from strings(child)


def said(node: ast.expr) -> str:
    """A string's text, each value in it as ``X``."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in getattr(node, "values", ()))


def pages(text: str) -> Iterator[tuple[int, str]]:
    """The paragraphs, list items and table cells of a Markdown page, without headings and code."""
    block: list[str] = []
    first, fence = 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        if bare.startswith("```"):
            fence = not fence
        starts = bare.startswith(("#", "|", "```", "---", "<", ":::")) or not bare or fence
        item = re.match(r"(?:[-*] |\d+\. )", bare)
        if (starts or item) and block:
            yield first, " ".join(block)
            block = []
        if bare.startswith("|") and not fence:
            for cell in map(str.strip, bare.strip("|").split(" | ")):
                if re.search(r"[a-z]{3} ", cell):
                    yield number, cell
        elif not starts:
            first = number if not block else first
            block.append(bare[item.end() :] if item else bare)


def texts(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Kind of text to (place, sentence)."""
    found: dict[str, list[tuple[str, str]]] = {}

    def add(kind: str, path: Path, parts: Iterator[tuple[int, str]]) -> None:
        for line, paragraph in parts:
            place = f"{path.relative_to(root)}:{line}"
            found.setdefault(kind, []).extend((place, sentence) for sentence in sentences(paragraph))

    for path in sorted((root / "src").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for kind, read in (("docstrings", docstrings), ("comments", comments), ("messages", messages)):
            add(kind, path, read(source))
    for path in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]:
        add("docs/log.md" if path.name == "log.md" else "documentation", path, pages(path.read_text(encoding="utf-8")))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to read")
    parser.add_argument(
        "--list", metavar="KIND", help="print the sentences of this kind that begin the wrong way round"
    )
    given = parser.parse_args()
    found = texts(given.root.resolve())
    for place, sentence in found.get(given.list, []):
        if begins_wrong(sentence):
            print(f"{place}: {sentence}")
    if given.list:
        return
    print(
        "| | sentences | words, mean | words, 90th percentile | begin with Of, What, That ... | begin with an object |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for kind, rows in found.items():
        lengths = sorted(len(words(sentence)) for _, sentence in rows)
        wrong = [s for _, s in rows if begins_wrong(s)]
        opening = sum(bool(OPENING.match(s.lstrip("\"'("))) for s in wrong)
        count = len(lengths)
        print(
            f"| {kind} | {count:,} | {sum(lengths) / count:.1f} | {lengths[min(count - 1, int(0.9 * count))]} | "
            f"{opening} ({opening / count:.1%}) | {len(wrong) - opening} ({(len(wrong) - opening) / count:.1%}) |"
        )


if __name__ == "__main__":
    main()
