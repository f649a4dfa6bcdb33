"""A user's own test set as a benchmark: a table of captions, of questions, or of questions with options.

Rows come from :mod:`mblip.corpora.rows`, and columns from :mod:`mblip.evaluation.table_columns`. Captions are scored like
xFlickrCo's and questions like xGQA's, so equal rows give equal metrics. A row that cannot be used stops the evaluation
with its number and reason; if missing items are allowed, it is left out, counted, and named in a remark.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from mblip.corpora.json_stream import BadRow
from mblip.corpora.rows import read_rows
from mblip.errors import InputError, quoted
from mblip.eval_recipe import TableSection
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored
from mblip.evaluation.benchmarks import BENCHMARKS, MADE, captions
from mblip.evaluation.json_files import image_name, left_out, plain_id
from mblip.evaluation.metric import ACCURACY, RELAXED, UNPARSED
from mblip.evaluation.metrics.choices import letter
from mblip.evaluation.table_columns import (
    USUAL,
    Columns,
    cell_lines,
    cell_text,
    cell_texts,
    find_columns,
    listed_in,
)
from mblip.evaluation.table_options import read_options, right_option
from mblip.evaluation.table_pictures import CellPictures, TablePictures, cell_key
from mblip.evaluation.table_scores import VARIANTS, score_answers, score_choices
from mblip.languages import find_language, known_language
from mblip.storage import ImageStore
from mblip.storage.cells import picture_columns
from mblip.storage.encoded import is_encoded
from mblip.storage.text import NO_ADDRESSES, is_address

Score = Callable[[Sequence[Item], Sequence[str], Options], Scored]

_QUESTION = "Question: {text} Short answer in {language}:"
_LETTER = "{text}\nAnswer with the letter of the right option:"
_BAD_SHOWN = 3
_OTHERS_SHOWN = 5
_LOOKED_AT = 1000  # rows whose keys are the columns, if a file has no header
_BLANK = "a blank reference caption, which counts as one without words; fill it, or remove its row"


@dataclasses.dataclass
class _Row:
    """The content of a row, before the rows of one item are joined."""

    number: int
    name: str
    images: tuple[str, ...]
    text: str
    golds: tuple[str, ...]
    place: str
    options: tuple[str, ...] = ()


class TableBenchmark:
    """The items and the score of a table in a language.

    Args:
        section: The recipe's description of the table.
        paths: The file, or its parts in order.
        language: mC4 code.
        allow_missing: Leave out rows that cannot be used, instead of refusing.
        pictures: Whether the pictures are needed.
        by_likelihood: Score the options by likelihood, instead of showing them in the prompt.
        root: Folder that contains absolute paths of pictures.
        as_stored: Option for reading pictures in the table (:func:`~mblip.storage.decode_image`).
    """

    def __init__(
        self,
        section: TableSection,
        paths: Sequence[Path],
        language: str,
        allow_missing: bool = False,
        pictures: bool = True,
        by_likelihood: bool = False,
        root: Path | None = None,
        as_stored: bool = False,
    ) -> None:
        self.section, self.paths, self.path, self.language = section, tuple(paths), paths[0], language
        self.store: ImageStore | None = None
        self._allow_missing, self._pictures, self._by_likelihood = allow_missing, pictures, by_likelihood
        self._root, self._as_stored = root, as_stored
        self._counts: Counter[str] = Counter()
        self._others: Counter[str] = Counter()  # rows in other languages
        self._in_cells: tuple[str, ...] = ()
        self._spooled, self._first_bad = False, ""
        self._columns = Columns({})
        self._items = self._read()

    def benchmark(self) -> Benchmark:
        """The table as a benchmark."""
        section = self.section
        normal = self._normal_id()
        shared: dict[str, Any] = {
            "name": section.name or table_name(self.path),
            "languages": (self.language,),
            "files": (self.path.name,),
            "path": self.path,
            "parts": self.paths,
            "read": lambda path, language: list(self._items),
            "images": section.images or (str(self.path.absolute().parent),),
            "own_pictures": self.store,
            "source": section.source or "pictures are named as below the folder of the table, or of --images",
            "normal_id": normal,
            # Predictions may also be for rows that were left out.
            "extra": bool(self._counts["rows_left_out"] or self._counts["rows_of_others"]),
            "by_language": bool(self._columns.one("language")),
            "id_keys": (self._columns.one("id"), *USUAL["id"]) if "id" in self._columns.names else (),
            "image_keys": (*self._columns.names["image"], *USUAL["image"]),
        }
        if section.task == "caption":
            base = captions.XFLICKRCO
            return dataclasses.replace(
                base,
                **shared,
                english_files=(),
                mark="",
                prompt=self._prompt(base.prompt),
                score=self._noting(captions.score),
            )
        kind: dict[str, Any] = {
            "prompt": self._prompt(_QUESTION),
            "decoding": SHORT_ANSWER,
            "score": self._noting(score_answers),
            "metrics": (ACCURACY, RELAXED),
            "variants": VARIANTS,
        }
        if section.task == "choice":
            kind |= {
                "score": self._noting(score_choices),
                "metrics": (ACCURACY, UNPARSED),
                "variants": ("default",),
                "chooses": True,
            }
            if not self._by_likelihood:
                kind["prompt"] = self._prompt(_LETTER)
        return Benchmark(**shared, **kind)

    def _prompt(self, usual: str) -> str:
        prompt, spoken = self.section.prompt or usual, self.section.answer_language
        try:
            prompt.format(text="", language="")
        except (LookupError, ValueError) as error:
            raise InputError(
                f"the prompt {prompt!r} of the table {self.path.name} may only contain {{text}} and {{language}} "
                f"({error})"
            ) from error
        return prompt.replace("{language}", find_language(spoken).name) if spoken else prompt

    def _noting(self, score: Score) -> Score:
        """Wrap a score function to add the counts of rows to its notes."""
        notes: dict[str, Any] = {name: count for name, count in self._counts.items() if count}
        count = notes.get("rows_left_out")
        remarks = [left_out(count, "the table", self._first_bad)] if count else []
        if count := notes.get("blank_references"):
            remarks.append(f"{count:,} {'picture has' if count == 1 else 'pictures have'} {_BLANK}")
        if self._others and "language" not in self.section.columns:  # nobody asked for it
            remarks.append(
                f"rows in other languages, left out by the column {self._columns.one('language')!r}: "
                f"{self._listed_others()}"
            )
        if self.section.task == "choice":
            notes["options"] = "by likelihood" if self._by_likelihood else "by letter"

        def noted(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
            scored = score(items, answers, options)
            said = [*remarks, *([scored.notes["remark"]] if "remark" in scored.notes else [])]
            remark = {"remark": "; ".join(said)} if said else {}
            return dataclasses.replace(scored, notes={**scored.notes, "task": self.section.task, **notes, **remark})

        return noted

    def _listed_others(self) -> str:
        first = [f"{quoted(said)} {count:,}" for said, count in self._others.most_common(_OTHERS_SHOWN)]
        more = len(self._others) - len(first)
        return ", ".join(first) + (f" and {more} more" if more else "")

    # --- reading

    def _read(self) -> list[Item]:
        bad, found = list[str](), list[_Row]()
        before, columns = 0, Columns({})
        for path in self.paths:
            self._file = path
            held, rows = self._open()
            columns = find_columns(path, held, self.section.task, self.section.columns)
            for column in self.section.where:
                if column not in held:
                    raise InputError(f"{path} has no column {column!r}, by which its rows are chosen")
            number = 0
            for number, row in enumerate(rows, start=1):
                try:
                    if isinstance(row, BadRow):
                        raise row
                    if not isinstance(row, dict):
                        raise BadRow(f"it must be an object, not {quoted(row)}")
                    if self._is_wanted(row, columns):
                        found.append(self._row(number, before + number, row, columns))
                except BadRow as error:
                    bad.append(f"{path.name}, row {number}: {error}")
            before += number
        if bad and not (self._allow_missing and found):
            more = f"; and {len(bad) - _BAD_SHOWN} more" if len(bad) > _BAD_SHOWN else ""
            raise InputError(
                f"{'; '.join(bad[:_BAD_SHOWN])}{more}; correct {'them' if len(bad) > 1 else 'it'}, or leave "
                f"{'them' if len(bad) > 1 else 'it'} out with --allow-missing, which counts such rows"
            )
        self._counts["rows_left_out"] = len(bad)
        self._first_bad = bad[0] if bad else ""
        if not found and self._others:
            raise InputError(
                f"{self.path} holds no rows in {self.language!r}: its column {columns.one('language')!r} says "
                f"{self._listed_others()}; choose one of these with --language, or take all rows with --columns language="
            )
        if not found:
            raise InputError(f"{self.path} holds no rows to evaluate")
        self._columns = columns
        return self._put_together(found)

    def _open(self) -> tuple[list[str], Iterator[Any]]:
        """The names of the columns, and the rows, without the pictures in Parquet files."""
        if self._file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            pictures = picture_columns(self._file)
            held = list(pq.read_schema(self._file).names)
            wanted = find_columns(self._file, held, self.section.task, self.section.columns)
            named = (*wanted.names["image"], *wanted.names.get("second_image", ()))
            self._in_cells = tuple(name for name in named if name in pictures)
            if self._in_cells and self._pictures:
                store = self.store = self.store or CellPictures(self._as_stored)
                if isinstance(store, CellPictures):
                    store.add(self._file, self._in_cells)
            all_named = list(dict.fromkeys([*wanted.all(), *self.section.where]))
            structs = {
                f.name for f in pq.read_schema(self._file) if hasattr(f.type, "num_fields") and f.type.num_fields
            }
            read = [
                f"{n}.path" if n in pictures and n in structs else n
                for n in all_named
                if n not in pictures or n in structs
            ]
            return held, read_rows(self._file, read)
        rows = read_rows(self._file)
        first = list(islice(rows, _LOOKED_AT))
        held = list(dict.fromkeys(name for row in first if isinstance(row, dict) for name in row))
        if not held:
            what = f": {first[0]}" if first and isinstance(first[0], BadRow) else ""
            raise InputError(f"{self._file} holds no rows{what}")
        return held, chain(first, rows)

    def _is_wanted(self, row: Mapping[str, Any], columns: Columns) -> bool:
        if any(
            cell_text(row, column, may_be_blank=True).strip() != value for column, value in self.section.where.items()
        ):
            self._counts["rows_of_others"] += 1
            return False
        if "language" not in columns.names:
            return True
        column = columns.one("language")
        said = cell_text(row, column, may_be_blank=True).strip()
        if not said:
            raise BadRow(f"{column!r} is blank; name the row's language, or take rows in any with --columns language=")
        if pair := re.match(r"[(\[]\s*['\"]([^'\"]+)['\"]", said):  # CVQA: ('Japanese', 'Japan')
            said = pair[1]
        if said == self.section.codes.get(self.language):
            return True
        named = known_language(said)
        mine = named is not None and named.code == self.language
        if not mine:
            self._counts["rows_of_others"] += 1
            self._others[said] += 1
        return mine

    def _row(self, number: int, count: int, row: Mapping[str, Any], columns: Columns) -> _Row:
        name = cell_text(row, columns.one("id")).strip() if "id" in columns.names else ""
        images, picture = self._images(number, count, row, columns, name)
        place = f"{self._file}, row {number}"
        if self.section.task == "caption":
            golds = tuple(cell_texts(row, columns.names["caption"]))
            return _Row(count, name or picture, images, "", golds, place)
        text = cell_lines(row, columns.one("question"))
        if "hint" in columns.names and (hint := cell_lines(row, columns.one("hint"), may_be_blank=True).strip()):
            text = f"{hint}\n{text}"
        if self.section.task == "vqa":
            golds = tuple(
                self.section.answers.get(gold.strip(), gold.strip())
                for gold in cell_texts(row, columns.names["answer"])
            )
            if not golds:
                raise BadRow(f"{columns.one('answer')!r} is blank")
            return _Row(count, name or str(count), images, text, golds, place)
        options, labels = read_options(row, columns)
        gold = options[right_option(row, columns, options, labels, self.section.answers)]
        return _Row(count, name or str(count), images, text, (gold,), place, tuple(options))

    def _images(
        self, number: int, count: int, row: Mapping[str, Any], columns: Columns, name: str
    ) -> tuple[tuple[str, ...], str]:
        """Keys of a row's pictures, and the readable name of the first."""
        keys, said, naming = list[str](), list[str](), columns.one("image_name")
        for place, column in enumerate((*columns.names["image"], *columns.names.get("second_image", ()))):
            cell = row.get(column)
            if place and (cell is None or cell == "") and column != columns.one("second_image"):
                continue  # rows may lack a second, third, ... picture
            if column in self._in_cells:
                path = cell.get("path") if isinstance(cell, dict) else None
                keys.append(cell_key(self._file, number - 1, column))
                said.append(path if isinstance(path, str) and path else str(count))
                continue
            called = cell_text(row, naming, may_be_blank=True).strip() if naming else ""
            listed = listed_in(cell) if isinstance(cell, str) and is_encoded(cell[2:]) else cell
            for value in listed if isinstance(listed, list) else [cell]:
                own = called or name or str(count)
                key = self._key(value, f"{own}-{len(keys) + 1}" if keys else own, column)
                keys.append(key)
                said.append(key)
        if not keys:
            raise BadRow(f"{columns.one('image')!r} holds no picture")
        return tuple(keys), said[0]

    def _key(self, value: Any, name: str, column: str) -> str:
        """The key of one picture: a path, or the name under which a picture in the table is stored."""
        data = value.get("bytes") if isinstance(value, dict) else None
        value = value.get("path") or data if isinstance(value, dict) and not isinstance(data, bytes) else value
        text = "" if isinstance(data, bytes) else cell_text({column: value}, column).strip()
        if data or is_encoded(text):
            self._spooled = True
            if self._pictures:
                store = self.store = self.store or TablePictures(self._as_stored)
                if isinstance(store, TablePictures):
                    store.add(name, data if isinstance(data, bytes) else text)
            return name
        if self._spooled:  # VLMEvalKit: the number of the row that has the picture
            return text
        if is_address(text):
            raise BadRow(f"{column!r} is {quoted(text)}: {NO_ADDRESSES}")
        path = PurePosixPath(text)
        if path.is_absolute():
            root = (self._root or self.path.parent).absolute()
            if not path.is_relative_to(root.as_posix()):
                raise BadRow(f"{column!r} is {quoted(text)}, which is not below {root}; name that folder with --images")
            text = path.relative_to(root.as_posix()).as_posix()
        if ".." in PurePosixPath(text).parts:
            raise BadRow(f"{column!r} is {quoted(text)}, which leads out of the folder of pictures")
        return text.removeprefix("./")

    def _put_together(self, rows: list[_Row]) -> list[Item]:
        """Join rows of one picture (captions) or of one id and question (questions) into one item with references."""
        if self.section.task == "caption":
            return self._put_captions(rows)
        items: dict[str, _Row] = {}
        for row in rows:
            before = items.setdefault(row.name, row)
            if before is row:
                continue
            if (before.text, before.images, before.options) != (row.text, row.images, row.options) or row.options:
                if self._allow_missing:
                    self._first_bad = self._first_bad or f"row {row.number} has the id of row {before.number}"
                    self._counts["rows_left_out"] += 1
                    continue
                raise InputError(
                    f"{self.path}, row {row.number} has the id {row.name!r} of row {before.number}, but another "
                    "question; give each question an id of its own, map another column with --columns id=COLUMN, or leave "
                    "it out with --allow-missing"
                )
            before.golds = tuple(dict.fromkeys((*before.golds, *row.golds)))
        return [_item(row, shows_options=not self._by_likelihood) for row in items.values()]

    def _put_captions(self, rows: list[_Row]) -> list[Item]:
        by_picture: dict[tuple[str, ...], list[_Row]] = {}
        for row in rows:
            by_picture.setdefault(row.images if not self._in_cells else (row.name,), []).append(row)
        names = [{row.name for row in group} for group in by_picture.values()]
        every = [name for group in names for name in group]
        # Ids identify pictures only if each picture has exactly one.
        own = all(len(group) == 1 for group in names) and len(set(every)) == len(names)
        items = []
        for group in by_picture.values():
            first, texts = group[0], tuple(text for row in group for text in row.golds)
            self._counts["blank_references"] += not texts
            name = first.name if own else first.images[0]
            items.append(Item(name, first.images, "", texts or ("",), place=first.place))
        return items

    def _normal_id(self) -> Any:
        """Normalise ids, of captions as names of pictures, if they stay distinct, else keep them."""
        ways: list[Callable[[str], str]] = [image_name] if self.section.task == "caption" else []
        for way in (*ways, plain_id):
            if len({way(item.id) for item in self._items}) == len(self._items):
                return way
        return str


def table_name(path: Path) -> str:
    """The name of a table in results: the file's name in lower case, different from all benchmarks."""
    name = re.sub(r"[^\w.]+", "_", path.stem.lower()).strip("_.") or "table"
    return f"table_{name}" if name in BENCHMARKS or name in MADE else name


def _item(row: _Row, shows_options: bool) -> Item:
    if not row.options:
        return Item(row.name, row.images, row.text, row.golds, place=row.place)
    lettered = [f"{letter(number)}. {option}" for number, option in enumerate(row.options)]
    asked = "\n".join([row.text, *lettered]) if shows_options else ""
    return Item(row.name, row.images, row.text, row.golds[0], row.options, asked, row.place)
