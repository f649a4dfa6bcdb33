"""Find the part of the released mix that a row belongs to, by its picture, its prompt and the rows before it.

The merged file has its parts one after another without names. The picture separates web images, COCO and ImageNet with
certainty. Among rows with one kind of picture, the words of the prompt decide. If these are unclear (translated
prompts), the part of most rows directly before decides.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mblip.corpora import aokvqa, coco, imagenet, llava, vqav2, web_capfilt

_NLLB = "CC-BY-NC-4.0 (translations)"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the mix.

    Attributes:
        name: Name of the part in the source of its rows.
        task: Task of its rows.
        pictures: ``web``, ``coco`` or ``imagenet``.
        licence: Licence of its texts.
    """

    name: str
    task: str
    pictures: str
    licence: str


PARTS = (
    Part("web_captions", "caption", "web", f"{web_capfilt.LICENCE}; {_NLLB}"),
    Part("coco_captions", "caption", "coco", f"{coco.LICENCE}; {_NLLB}"),
    Part("llava_detail", "description", "coco", f"{llava.LICENCE}; {_NLLB}"),
    Part("llava_conversation", "conversation", "coco", f"{llava.LICENCE}; {_NLLB}"),
    Part("aokvqa_reasoning", "reasoning", "coco", f"{aokvqa.LICENCE}; {_NLLB}"),
    Part("aokvqa_explanation", "explanation", "coco", f"{aokvqa.LICENCE}; {_NLLB}"),
    Part("vqav2", "vqa", "coco", f"{vqav2.LICENCE}; {_NLLB}"),
    Part("question_generation", "question_generation", "coco", f"{vqav2.LICENCE}; {_NLLB}"),
    Part("web_matching", "matching", "web", f"{web_capfilt.LICENCE}; {_NLLB}"),
    Part("imagenet_naming", "naming", "imagenet", imagenet.LICENCE),
    Part("imagenet_presence", "presence", "imagenet", imagenet.LICENCE),
)
"""The parts in the order of the merged file."""

BY_NAME = {part.name: part for part in PARTS}
_FIRST = {"web": "web_captions", "coco": "llava_conversation", "imagenet": "imagenet_naming"}
_RECENT = 31  # number of recent rows with clear prompts

_COCO = re.compile(r"COCO_(?:train|val|test)20\d\d_|^(?:(?:train|val)20\d\d/)?\d{12}\.jpg$")
_IMAGENET = re.compile(r"(?:^|/)n\d{8}(?:/|_)")
_QUESTION_MARK = re.compile(r"[?\uff1f\u061f\u055e\u1367\u2047]|(?<=[\u0370-\u03ff]);")
# Matches prompts that ask for a question to a given answer, and not prompts that ask to answer a question.
_ASKS_FOR_QUESTION = re.compile(
    r"\b(?:generate|create|craft|provide|produce|formulate|ask|write|give|make up|come up with|what is|what would be)\b"
    r"(?:(?!\b(?:answer|reply|response|respond))[^?.!]){0,80}\bquestion\b.*\b(?:answer|reply|response|answered)\b"
    r"|^(?:(?!\b(?:answer|reply|response|respond))[^?.!:]){0,60}\bquestion\b[^?.!:]{0,60}"
    r"\b(?:whose|for|has|that|with|leads? to|where)\b[^?.!]{0,40}\b(?:answer|reply|response)\b",
    re.IGNORECASE | re.DOTALL,
)
_EXPLAINS = re.compile(
    r"\b(?:explain|explanation|rationale|why|reason(?:s|ing)?|justif\w+|step[- ]by[- ]step|steps?)\b", re.IGNORECASE
)
_GIVES_ANSWER = re.compile(
    r"\banswer(?:ed)?(?: (?:is|was|with|as))?\s*[:\"“'«]|\bwas answered\b|\bis the answer\b|\b(?:the|this|that) answer\b",
    re.IGNORECASE,
)
_DETAILED = re.compile(
    r"\b(?:detail(?:s|ed)?|thorough(?:ly)?|comprehensive(?:ly)?|elaborate|extensive(?:ly)?|in[- ]depth|rundown|analy[sz]e|"
    r"explore|everything|exhaustive)\b",
    re.IGNORECASE,
)
_CAPTIONS = re.compile(r"\b(?:caption|title|describe|description|summar(?:y|i[sz]e)|depict(?:s|ed)?)\b", re.IGNORECASE)
_SHORTLY = re.compile(
    r"\b(?:short|brief|concise)(?:ly)?\b[^.?!:]{0,40}\b(?:answer|reply|respon[ds]e?)|"
    r"\b(?:answer|reply|respond)\b[^.?!:]{0,40}\b(?:shortly|briefly)|\bbriefly (?:answer|reply|respond)|"
    r"\b(?:one|two|three|few|couple of)\b[^.?!:]{0,14}\bwords?\b",
    re.IGNORECASE,
)
_MATCHES = re.compile(
    r"\b(?:yes|no|match(?:es)?|fit(?:s|ting)?|accurate(?:ly)?|correct(?:ly)?|appropriate|good|true|belongs?)\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"\byes\b|\bno\b|\b(?:is|are) there\b|\b(?:can|do|could) you (?:see|find|spot)\b|\bdoes\b", re.IGNORECASE
)
_SHORT = 3  # words of an answer of VQA
_INSTRUCTION = 12  # maximum words of an English prompt without a text of the row
_CAPTION_LONGEST = 45  # maximum words of a prompt that asks for a caption, without a text of the row


class PartTeller:
    """Finds the part of each row, in the order of the file.

    Args:
        counts: Number of rows of each part, in the order of the file; if given, only the position decides.
        first: The part in the name of the file; empty if there is none.
    """

    def __init__(self, counts: Mapping[str, int] | None = None, first: str = "") -> None:
        self._places = _places(counts) if counts else None
        self._first = first
        self._recent: dict[str, deque[str]] = {}
        self._passed_web = False

    def tell(self, image: str, prompt: str, answer: str) -> Part | None:
        """The part of the next row; None after the end of the counts."""
        if self._places is not None:
            name = next(self._places, "")
            return BY_NAME[name] if name else None
        if self._first:
            return BY_NAME[self._first]
        pictures = picture_kind(image)
        recent = self._recent.setdefault(pictures, deque(maxlen=_RECENT))
        usual = Counter(recent).most_common(1)[0][0] if recent else ""
        if pictures != "web":
            self._passed_web = True
        part = self._recognised(pictures, prompt, answer, usual)
        if part:
            recent.append(part)
        first = "web_matching" if pictures == "web" and self._passed_web else _FIRST[pictures]
        if pictures == "web" and not part and usual == "web_captions":
            usual = ""  # earlier web rows say nothing about those after COCO's rows
        return BY_NAME[part or usual or first]

    def _recognised(self, pictures: str, prompt: str, answer: str, usual: str) -> str:
        if pictures == "imagenet":
            return "imagenet_presence" if _YES_NO.search(prompt) else "imagenet_naming"
        if pictures == "coco":
            return _of_coco(prompt, answer, usual)
        few = len(answer.split()) <= 2 * _SHORT
        if few and _MATCHES.search(prompt):
            return "web_matching"
        # The merged file has captions before all others, and pairs after COCO's rows.
        alone = _CAPTIONS.search(prompt) is not None and len(prompt.split()) <= _INSTRUCTION
        return "web_captions" if alone or not self._passed_web else ""


def picture_kind(image: str) -> str:
    """``coco``, ``imagenet`` or ``web``, by the name of the file."""
    if _COCO.search(image):
        return "coco"
    return "imagenet" if _IMAGENET.search(image) else "web"


def _of_coco(prompt: str, answer: str, usual: str) -> str:
    """The part of a prompt about a photo of COCO; empty if it is unclear."""
    asks = _QUESTION_MARK.search(prompt) is not None
    is_question = _QUESTION_MARK.search(answer[-2:]) is not None
    if _ASKS_FOR_QUESTION.search(prompt) and (is_question or not asks):
        return "question_generation"
    if is_question and not asks and usual in ("", "question_generation"):
        return "question_generation"
    words = len(answer.split())
    if words > 1 and _EXPLAINS.search(prompt) and (asks or "question" in prompt.casefold()):
        if usual == "llava_conversation" and not _GIVES_ANSWER.search(prompt) and words > 40:
            return "llava_conversation"
        return "aokvqa_explanation" if _GIVES_ANSWER.search(prompt) else "aokvqa_reasoning"
    if not asks and len(prompt.split()) <= _CAPTION_LONGEST:
        if _DETAILED.search(prompt) and (words > 25 or usual == "llava_detail" or len(answer) > 150):
            return "llava_detail"
        if _CAPTIONS.search(prompt):
            return "llava_detail" if words > 40 or len(answer) > 400 else "coco_captions"
    if _SHORTLY.search(prompt):
        return "vqav2"
    if asks or re.search(r"\bquestion\b", prompt, re.IGNORECASE):
        return "vqav2" if words <= _SHORT and len(answer) <= 40 else "llava_conversation"
    return ""


def _places(counts: Mapping[str, int]) -> Iterator[str]:
    for name, count in counts.items():
        for _ in range(count):
            yield name
