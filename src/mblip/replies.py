"""Extract answers from replies of chat models.

:func:`without_reasoning` returns the answer unchanged (for evaluation). :func:`translation_in` also removes text around
a translation, and gives the reason if a reply has none. Both use rules, and leave an ordinary text unchanged.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from mblip.languages import LANGUAGES, Language, find_language

RULES = "reasoning and end-of-turn tokens taken off (rules 1)"
"""Entry in fingerprints of answers from :func:`without_reasoning`; the number changes with the rules."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a chat model.

    Attributes:
        text: The unchanged message; None if there is none.
        finish: OpenAI's ``finish_reason``: ``stop``, ``length``, ``content_filter``; empty if it is missing.
        refusal: The text in the field ``refusal``.
    """

    text: str | None
    finish: str = ""
    refusal: str = ""


def read_completion(completion: Any) -> Reply:
    """The first choice of a chat completion, from parsed JSON; reasoning in separate fields is not part of the text.

    Raises:
        ValueError: It is not a chat completion.
    """
    try:
        choice = completion["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content, refusal = message["content"] if "content" in message else message["refusal"], message.get("refusal")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("not a chat completion") from error
    if isinstance(content, list):  # typed parts; those of type "thinking" or "reasoning" are not part of the answer
        content = "".join(_part_text(part) for part in content)
    if not isinstance(content, str | None):
        raise ValueError("the content of the message is not a text")
    return Reply(content, finish if isinstance(finish, str) else "", refusal if isinstance(refusal, str) else "")


def without_reasoning(text: str) -> str | None:
    """A reply without its reasoning blocks and its end-of-turn tokens; None if it ended before its reasoning did.

    Text after the first end-of-turn token is removed too, because the model continues there as somebody else. An
    ordinary text only loses the white space at its ends; an empty reply gives an empty text.
    """
    visible = _after_reasoning(_final_channel(text)) or ""
    answers = _ANSWER.findall(visible)
    answer = _without_tokens(answers[-1][1] if answers else visible).strip()
    return None if not answer and _reasons(text) else answer


def translation_in(reply: Reply, source: str, language: str) -> tuple[str, str]:
    """The translation in a reply, and the reason why it cannot be used (empty if it can).

    Removed are reasoning, end-of-turn tokens, prefaces ("Here is the translation:"), notes after it, the source text
    beside it, and quotes, emphasis and code fences around all of it. Anything that the source has too is kept. Reasons
    are ``refused``, ``cut off``, ``source language`` (an echo or an English paraphrase) and ``only reasoning``; an
    empty reply gives an empty text without a reason.

    Args:
        reply: The reply.
        source: The source text.
        language: mC4 code of the target language.
    """
    if reply.finish in _REFUSED or (reply.refusal and not (reply.text or "").strip()):
        return reply.refusal or (reply.text or "").strip(), "refused"
    text = reply.text or ""
    if not (_MARK.search(source) or _END.search(source)):
        visible = without_reasoning(text)
        if visible is None:
            return "", "cut off" if reply.finish in _CUT_OFF else "only reasoning"
        text = visible
    if reply.finish in _CUT_OFF:
        return text, "cut off"
    target = LANGUAGES.get(language) or find_language(language)
    bare = _bare(text, source, target)
    if _refuses(text, source, target) or _refuses(bare, source, target):
        return text, "refused"
    if target.code != "en" and _is_english(bare, source):
        return bare, "source language"
    return bare, ""


_TABLE: dict[str, Any] = yaml.safe_load(resources.files("mblip").joinpath("replies.yaml").read_text(encoding="utf-8"))
_TRANSLATION = re.compile("|".join(_TABLE["translation"]))
_NOTES = "|".join(_TABLE["note"])
_REFUSALS = re.compile("|".join(_TABLE["refusals"]), re.IGNORECASE | re.DOTALL)
_ENGLISH_ALONE = frozenset(_TABLE["english_alone"].split())
_ENGLISH = _ENGLISH_ALONE | frozenset(_TABLE["english"].split())

_CUT_OFF = ("length", "max_tokens", "MAX_TOKENS", "model_length")
_REFUSED = ("content_filter", "safety", "SAFETY", "refusal", "PROHIBITED_CONTENT")

# --- reasoning and tokens

_TAGS = "think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think|inner_monologue"
_MARK = re.compile(
    rf"""(?P<open><\s*(?:{_TAGS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:think(?:ing)?|begin_of_thought|START_THINKING)\|>
             |<\|channel>\w*|<unused94>(?:thought)?)
       |(?P<close><\s*/\s*(?:{_TAGS})\s*>|\[/THINK\]|◁/think▷|<\|(?:/think(?:ing)?|end_of_thought|END_THINKING)\|>
             |<channel\|>|<unused95>)""",
    re.VERBOSE | re.IGNORECASE,
)
_CHANNEL = re.compile(r"(?:\A|<\|channel\|>)\s*([a-z]+)[^<>]*<\|message\|>(.*?)(?=<\|[a-z]+\|>|\Z)", re.DOTALL)
# gpt-oss if the server drops the special tokens, and Granite's sentences.
_SPELLED = re.compile(
    r"\A\s*(?:analysis(?=[A-Z\s\"']).*?assistant\s*final|Here is my thought process:.*?Here is my response:)", re.DOTALL
)
_SPELLED_ALONE = re.compile(r"\A\s*(?:analysis(?=[A-Z][a-z']|I )|Here is my thought process:)")
_ANSWER = re.compile(
    r"(?i)(?:<(answer|conclusion|final_answer)>|<\|(?:begin_of_solution|START_RESPONSE|begin_of_box)\|>)(.*?)"
    r"(?:</\1>|<\|(?:end_of_solution|END_RESPONSE|end_of_box)\|>|\Z)",
    re.DOTALL,
)
_END = re.compile(
    r"<[|｜](?:im_end|endoftext|end|return|call|eot_id|eom_id|eot|eom|eos|end_of_text|END_OF_TURN_TOKEN|end[▁_]of[▁_]sentence"
    r"|end_of_turn|endofprompt|im_start|start|start_header_id|user|assistant|system|observation|User|Assistant)[|｜]>"
    r"|</s>|<turn\|>|<\|turn>|<(?:eos|eot|end_of_turn|end_of_utterance|end_of_text|start_of_turn|EOT|pad)>"
    r"|\[/?INST\]|\[EOS\]|\[\|endofturn\|\]"
)
_START = re.compile(
    r"\s*(?:(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|start\|>|<\|turn>)\s*(?:assistant|model)\b"
    r"|<[|｜](?:assistant|Assistant|begin_of_text|startoftext|im_sep|end_header_id|message|begin[▁_]of[▁_]sentence"
    r"|CHATBOT_TOKEN|START_OF_TURN_TOKEN)[|｜]>|<(?:bos|s|pad)>|\[/INST\]|\[\|assistant\|\])"
)


def _final_channel(text: str) -> str | None:
    """The final channel of gpt-oss' format; None if the reply ended before it."""
    if "<|message|>" in text:
        found = _CHANNEL.findall(text)
        if found:
            final = [content for channel, content in found if channel == "final"]
            return final[-1] if final else None
    if "<|channel|>" in text:
        return None
    if spelled := _SPELLED.match(text):
        return text[spelled.end() :]
    return None if _SPELLED_ALONE.match(text) else text


def _after_reasoning(text: str | None) -> str | None:
    if text is None:
        return None
    kept, start, inside, closed = "", 0, False, False
    marks = list(_MARK.finditer(text))
    said = len(_END.split(text, maxsplit=1)[0].rstrip())  # end of the readable text
    for mark in reversed(marks):
        if mark["close"] and mark.end() >= said:
            said = mark.start()
            while text[said - 1 : said].isspace():
                said -= 1
    for mark in marks:
        if mark["open"]:
            if not inside:
                kept += text[start : mark.start()]
            inside = True
        else:
            if not inside:  # it was opened in the prompt, so everything before is reasoning; or it is superfluous
                kept = kept + text[start : mark.start()] if closed and mark.start() >= said else ""
            inside, closed = False, True
        start = mark.end()
    return kept if inside else kept + text[start:]


def _reasons(text: str) -> bool:
    return bool(_MARK.search(text) or "<|channel|>" in text or "<|message|>" in text or _SPELLED_ALONE.match(text))


def _without_tokens(text: str) -> str:
    while start := _START.match(text):
        text = text[start.end() :]
    end = _END.search(text)
    while end and not text[: end.start()].strip():
        text = text[end.end() :]
        end = _END.search(text)
    if end and not (end.group() == "</s>" and "<s>" in text[: end.start()]):  # struck-through text in HTML
        return text[: end.start()]
    return text


def _part_text(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


# --- text around a translation

_PAIRS = (
    '""', "''", "“”", "„“", "„”", "””", "‘’", "‚‘", "‚’", "«»", "»«", "‹›", "›‹", "「」", "『』", "《》", "〈〉", "〝〟",
    "＂＂",
    "｢｣", "״״",
)  # fmt: skip
_FENCE = re.compile(r"\A(`{3,}|~{3,})[^\n`]*\n(.*?)\n?\s*\1\Z", re.DOTALL)
_EMPHASIS = ("***", "**", "__", "~~", "*", "_", "`")
_STOPS = ".。!?！？।؟"
_WRAPPED = re.compile(r"(?is)\A<(translation|translated_text|target|output|result|response|text|p)>(.*)</\1>\Z")
_HEAD = re.compile(r"([^\n:：]{1,200})\s*[:：]\s*")
_FIRST_LINE = re.compile(r"([^\n]{1,120})\n\s*")
_POLITE = re.compile(
    r"(?i)(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|gladly|no problem|definitely|alright|understood"
    r"|happy to help|yes)\b"
)
_HERE = re.compile(r"(?i)(?:here(?:'s|’s| is| are| you go| it is)|below is|the following (?:is|text)|this is)\b")
_LABEL = re.compile(r"(?i)(?:final )?(?:output|answer|result|response|target(?: text| language)?|text|sentence)")
_CONNECTOR = re.compile(
    r"""[\s"'”’»*_)]*(?:,?\s*(?:in|into|to|translated(?: in)?to)\s+[^\W\d]+(?:\s[^\W\d]+)?)?\s*
        (?:(?:is|means|becomes|would be|can be translated as|translates (?:in)?to|reads)\b|[-=]+>|[→⇒=:：–—-])?[\s:：]*""",
    re.VERBOSE,
)
_INLINE_NOTE = re.compile(
    rf"""\s{{0,20}}[(（\[【][*_\s]{{0,20}}(?:(?:{_NOTES})[*_\s]*[:：]|(?:literally|lit\.|meaning|i\.e\.
         |this (?:is|means|translat)|which means|the (?:word|phrase|term|translation)|where\s+["“'])).*[)）\]】][*_\s]*\Z""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_NOTE = re.compile(
    rf"\n[>#*_=(（\[【\s-]{{0,40}}(?:{_NOTES})[*_\s]*[:：].*\Z|(?<=[.!?。！？।)”\"»])\s+(?:\**Note\**)\s*:.*\Z",
    re.IGNORECASE | re.DOTALL,
)
_NOTE_IN_SOURCE = re.compile(rf"(?:{_NOTES})\s*[:：]|literal|\blit\.|meaning", re.IGNORECASE)
_CLOSER = re.compile(
    r"""(?:\n|(?<=[.!?。！？।)”"»*])[ ])[\s*_=(-]{0,40}(?:(?:please\ )?let\ me\ know|(?:i\ )?hope\ (?:this|that|it)|feel\ free
        |if\ you(?:\ |')(?:need|have|want|would|d|wish)|is\ there\ anything|would\ you\ like|do\ you\ (?:want|need)
        |this\ (?:translation|sentence|phrase|text|version)\ |the\ (?:translation|phrase|word|sentence|term|original)\b
        |in\ this\ translation|i(?:\ have|'ve|’ve)?\ (?:translated|used|kept|chose|chosen)|you\ (?:can|could|may)\ also
        |another\ (?:way|option|possib)|please\ note)\b.*\Z""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_RULER = re.compile(r"\n\s*[-*_=]{3,}\s*\Z|\A[-*_=]{3,}\s*\n")
_SPOKEN = re.compile(r"\n\s*[*_]*[(（][^()（）\n]*[)）][*_]*\s*\Z")
_TITLE = re.compile(r"\A(?:[#>]+\s+|[*_]{1,3}(?=[^*_\n]{1,80}(?:[:：][*_]{1,3}|[*_]{1,3}\s*[:：\n])))")


def _bare(text: str, source: str, target: Language) -> str:
    """Apply all rules until none changes the text; only removing a label may leave an empty text."""
    rules: tuple[Callable[[str, str, Language], str], ...] = (
        _unwrapped, _without_preface, _without_source, _without_notes,
    )  # fmt: skip
    for _ in range(12):
        before = text
        for rule in rules:
            text = rule(text, source, target).strip()
        if text == before:
            break
    return text


def _unwrapped(text: str, source: str, target: Language) -> str:
    """Without quotes, emphasis, fences, tags or a JSON object around all of it that the source does not have."""
    source = source.strip()
    if fence := _FENCE.match(text):
        return text if source.startswith(fence[1]) else fence[2]
    lines = text.split("\n")
    if not source.startswith(">") and all(line.startswith(">") for line in lines):
        return "\n".join(line[1:].strip() for line in lines)
    if (tag := _WRAPPED.match(text)) and not source.startswith("<"):
        return tag[2]
    if text.startswith("{") and text.endswith("}") and not source.startswith("{"):
        return _only_value(text)
    for mark in _EMPHASIS:
        inner = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inner.strip(mark[0] + " ") and mark[0] not in inner:
            return text if source.startswith(mark[0]) and source.endswith(mark[0]) else inner
    if source[:1] in {pair[0] for pair in _PAIRS} and source.rstrip(_STOPS)[-1:] in {pair[1] for pair in _PAIRS}:
        return text
    stop = text[-1:] if text[-1:] in _STOPS and text[-2:-1] in {pair[1] for pair in _PAIRS} else ""
    quoted = text.removesuffix(stop) if stop else text
    for pair in _PAIRS:
        opening, closing = pair[0], pair[1]
        inner = quoted[1:-1]
        if quoted.startswith(opening) and quoted.endswith(closing) and inner.strip():
            loose = re.sub(r"(?<=\w)['’](?=\w)", "", inner)  # an apostrophe
            if opening not in loose and closing not in loose:
                return inner + (stop if inner[-1] not in _STOPS else "")
    return text


def _without_preface(text: str, source: str, target: Language) -> str:
    """Without "Sure!", "Here is the translation:", "Swahili:" and the like at the beginning."""
    if "translat" in source.casefold():
        return text
    title = _TITLE.match(text)
    plain = text[title.end() :] if title else text
    for line in (_HEAD.match(plain), _FIRST_LINE.match(plain)):
        if line and _is_preface(line[1], source, target, colon=line.re is _HEAD):
            rest = plain[line.end() :]
            return re.sub(r"\A[*_]{1,3}\s+", "", rest) if title or line.re is _HEAD else rest
    polite = re.match(r"(?i)(?:sure(?: thing)?|certainly|of course|absolutely)[!.]\s+", text)
    if polite and target.code != "en" and not _same_opening(text, source):
        return text[polite.end() :]
    return text


def _is_preface(head: str, source: str, target: Language, *, colon: bool) -> bool:
    head = head.strip(" \t*_#>()[]\"'“”「」")
    if len(head.split()) > 25 or _same_opening(head, source):
        return False
    folded = head.casefold()
    if _TRANSLATION.search(folded):
        return colon or len(head.split()) <= 12
    if target.code != "en" and (_POLITE.match(head) or (_HERE.match(head) and colon)):
        return not _words(head) or _is_english(head, "") or len(head.split()) <= 4
    names = {name.casefold() for name in (target.name, target.own_name, *target.aliases) if len(name) > 2}
    named = re.sub(r"^(?:in|en|auf|em|dalam|bahasa)\s+|\s*\(.*\)$", "", folded)
    if not any(name in source.casefold() for name in names) and (named in names or folded in names):
        return colon
    return bool(colon and target.code != "en" and _LABEL.fullmatch(head))


def _same_opening(text: str, source: str) -> bool:
    """Whether both begin with the same word, which then belongs to the text."""
    first, own = _words(text)[:1], _words(source)[:1]
    return bool(first) and first == own


def _without_source(text: str, source: str, target: Language) -> str:
    """Without the English text before or after its translation."""
    source = source.strip()
    if len(source.split()) < 3:
        return text
    place = text.find(source)
    if place < 0:
        return text
    before, after = text[:place].rstrip(), text[place + len(source) :]
    rest = after[_CONNECTOR.match(after).end() :] if _CONNECTOR.match(after) else after  # type: ignore[union-attr]
    if rest.strip(" \n\"'”’»*_.)]"):
        return rest if not _letters(before) or _is_english(before, source) or before.endswith((":", "：")) else text
    before = re.sub(r"[\s(（\[\"'“*_=–—-]+\Z", "", before)
    return before if _letters(before) else text


def _without_notes(text: str, source: str, target: Language) -> str:
    """Without notes, explanations, offers of more help and romanisations at the end."""
    if not _NOTE_IN_SOURCE.search(source):
        for pattern in (_INLINE_NOTE, _NOTE):
            note = pattern.search(text)
            if note and _letters(text[: note.start()]):
                text = text[: note.start()].rstrip()
    closer = _CLOSER.search(text) if target.code != "en" else None
    if closer and _letters(text[: closer.start()]):
        text = text[: closer.start()].rstrip()
    spoken = _SPOKEN.search(text)
    if spoken and "\n" not in source.strip() and target.script != "Latn":
        letters = _letters(spoken.group())
        if letters and all("LATIN" in unicodedata.name(letter, "") for letter in letters):
            text = text[: spoken.start()]
    return _RULER.sub("", text) if not _RULER.search(source) else text


def _only_value(text: str) -> str:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    values = list(parsed.values()) if isinstance(parsed, dict) else []
    return values[0] if len(values) == 1 and isinstance(values[0], str) else text


# --- replies without a translation


def _refuses(text: str, source: str, target: Language) -> bool:
    if target.code == "en":  # "I'm sorry" may be the translation
        return bool(re.match(r"(?i)as an ai\b", text))
    if re.search(
        r"(?i)\b(?:sorry|apolog|unfortunate|cannot|can't|could|unable|afraid|regret|forgive|excuse|pardon)", source
    ):
        return False
    return bool(_REFUSALS.match(text.strip(" \n*_\"'“").replace("’", "'")))


def _is_english(text: str, source: str) -> bool:
    """Whether a text is English: most words are frequent in English or in the source, and some are only English."""
    words, own = _words(text), set(_words(source))
    if len(words) < 2 or sum(letter.isascii() for letter in _letters(text)) < 0.9 * len(_letters(text)):
        return False
    known = sum(word in _ENGLISH or word in own for word in words) / len(words)
    alone = sum(word in _ENGLISH_ALONE for word in words)
    small = sum(word in _ENGLISH for word in words)
    if alone and known >= 0.5 and alone + small >= 0.25 * len(words):
        return True
    return len(words) >= 3 and small >= 2 and known >= 0.75 and any(len(word) > 3 for word in words)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.casefold())


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalpha())
