"""The rules of the PTB-compatible tokeniser: patterns of single tokens.

Derived from behaviour alone: the reference (the jar that pycocoevalcap calls: Stanford CoreNLP 3.4.1, ``PTBTokenizer
-preserveLines -lowerCase``) was run as a black box on every character in 50 contexts, on all short strings over small
alphabets, on all words of up to six letters followed by a period, and on mutated captions. Nothing was taken from its
source. ``docs/reference/metrics.md`` states how often the two agree.

At every position the rule with the longest match wins, or the earlier rule of a tie. Group 1 is the token. Anything
that a pattern matches after it is context, which counts for the length but is read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of token.

    Attributes:
        start: Possible first characters, as the inside of a regular expression's ``[...]``.
        pattern: Group 1 is the token, anything after it context.
        rewrite: How the token is printed.
    """

    start: re.Pattern[str]
    pattern: re.Pattern[str]
    rewrite: Callable[[str], str]


def _classes() -> dict[str, str]:
    """The classes of characters beyond ASCII, each as the inside of ``[...]``."""
    text = resources.files("mblip.evaluation.metrics").joinpath("ptb_characters.json").read_text(encoding="utf-8")
    classes: dict[str, str] = json.loads(text)
    del classes["about"]
    return {
        name: "".join("-".join(f"\\u{end.zfill(4)}" for end in part.split("-")) for part in ranges.split())
        for name, ranges in classes.items()
    }


_CLASS = _classes()
_LETTER = "A-Za-z" + _CLASS["letters"]
_DIGIT = "0-9" + _CLASS["digits"]
_MARKS = _CLASS["marks"]
# Word boundaries inside a token in Java, and characters that Java counts as cased besides letters with two cases. Both
# decide the lower case of a capital sigma.
WORD_BREAKS = f"!-&(-,/:-@\\[-^`{{-~{_CLASS['word_breaks']}"
CASED_MODIFIERS = re.compile(f"[{_CLASS['cased_modifiers']}]")
_SOFT = "\\u00ad"
_SPLIT_WORDS = (("can", "not"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("wan", "na"))
# Characters that are never part of a token: NUL, and everything beyond the basic plane, of which the reference sees
# only lone surrogates.
IGNORED = re.compile(f"[\0{_CLASS['ignored']}\ud800-\udfff\U00010000-\U0010ffff]")

_NEWLINE = "\\n\\v\\f\\r\\u2028\\u2029"
_BLANKS = " \\t\\xa0\\u2000-\\u200a\\u3000"
_SPACE = f"{_BLANKS}{_NEWLINE}\\x85"
# Apostrophes: in clitics and shortened words; inside names and elisions; in n't.
_APOSTROPHE = "(?:['\u2019\x92]|(?i:&apos;))"
_ANY_APOSTROPHE = "(?:['\u2019\x92\u2018\x91\u201b`]|(?i:&apos;))"
_QUOTES = "`\u2018\u2019\u201c\u201d\x91\x92\x93\x94\u201a\u201b\u201e\u201f\u2039\u203a\xab\xbb"
_CLITIC = "(?i:[sdm]|ll|re|ve)"

_ENTITY_LETTER = "&(?i:[aeiou](?:acute|grave|uml));"
_LETTERLIKE = f"(?:[{_LETTER}{_MARKS}{_SOFT}]|{_ENTITY_LETTER})"
_WORD_PART = f"{_LETTERLIKE}(?:[{_LETTER}{_MARKS}{_DIGIT}{_SOFT}]|{_ENTITY_LETTER})*"
_WORD = f"{_WORD_PART}(?:[.!?]{_WORD_PART})*"
_COMPOUND_PART = f"(?:[dDlLoO]{_ANY_APOSTROPHE}[{_LETTER}{_DIGIT}]{{2,}}|[{_LETTER}{_DIGIT}]+)"
_COMPOUND = f"{_COMPOUND_PART}(?:[-_\u058a\u2010\u2011]{_COMPOUND_PART})*"
_NUMBER = f"(?:[{_DIGIT}]*(?:[.:,{_SOFT}\\u066b\\u066c][{_DIGIT}]+)+|[{_DIGIT}]+)"

# Web and mail addresses end at blanks and at these characters.
_URL_END = f' \\t{_NEWLINE}"<>|()'
_URL = f"[^{_URL_END}{{}}]"
_URL_LAST = f"[^{_URL_END}{{}}.!?,-]"
_HOST_END = f"{_URL_END}{{}}A-Z0-9!$',\\-./:;=?@\\[\\\\\\]^_`"
_MAIL = f"[^{_URL_END}{{}}\\xa0]"
_MAIL_PART = f"[^{_URL_END}{{}}\\xa0.]"
_EXTENSION = (
    "bat|bmp|c|cgi|class|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt"
    "|wav|x|xml|zip"
)
_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_ATTRIBUTE = f" +(?:{_NAME}(?: *= *(?:\"[^\"\\n]*\"|'[^'\\n]*'))?)"
_TAG = f"<(?:{_NAME}(?:{_ATTRIBUTE})* */?|/{_NAME} *|[!?][A-Za-z-][^>\\n]*)>"

# Abbreviations that keep their period: always; before a number; always, but a following letter may count as context.
_TITLES = (
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov"
    " govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps"
    " rev sen sens sfc sgt spc st ste supt supts treas vs wm"
)
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
_OTHER = (
    "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga"
    " inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt sep"
    " sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
# After one letter and a period, these words begin a new sentence, and the period is not part of the token.
_SENTENCE_STARTS = (
    "a about according additionally after an as at but earlier he her here however if in it last many more now once one"
    " other our she since so some such that the their then there these they this we what when while yet you"
)


def _words(text: str) -> str:
    return "(?i:" + "|".join(sorted(text.split(), key=len, reverse=True)) + ")"


_TITLE = f"(?=[A-Za-z]+\\.)(?:{_words(_TITLES)}|[Mm][ft][Gg])"
_ABBREVIATION = (  # words that are also English nouns only with a capital, "pte" and "pty" only with a small t
    f"(?=[A-Za-z]+\\.)(?:{_words(_OTHER)}|[Pp]?[Pp]t[EeYy][Ss]?|A(?i:rk|z)|D(?i:el)|I(?i:ll)|O(?i:re)|T(?i:ex)|L(?i:a)"
    "|P(?i:a)|M(?i:a|i)(?i:ss)|W(?i:ash))"
)
# A word of letters only, perhaps before one of these signs, is one token in any context. Exceptions are words that are
# cut in two, and letters and abbreviations, which may keep their period.
PLAIN_WORD = re.compile(f"([{_LETTER}]+)([.,;!?]?)")
SPLIT_WORDS = frozenset(head + tail for head, tail in _SPLIT_WORDS)
ABBREVIATIONS = frozenset(
    f"{_TITLES} {_BEFORE_NUMBER} {_OTHER} mfg mtg pte pty ptes ptys ppte ppty pptes pptys ark az del ill ore tex la pa "
    "mass"
    " miss wash".split()
)
_SPELLED_OUT = (  # words whose apostrophe stays inside
    f"(?i:ol{_APOSTROPHE}|[djl]{_APOSTROPHE}|cap{_APOSTROPHE}n|c{_APOSTROPHE}est"
    f"|(?:dunkin|somethin){_APOSTROPHE}|s'mores|c'mon|nor'easter|ev'ry|nat'l|li'l|e'er)"
)
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_PRINTED_AS = {
    **_BRACKETS,
    **dict.fromkeys('"\u201d\x94\xbb', "''"),
    **dict.fromkeys("\u201c\x93\xab", "``"),
    **dict.fromkeys("\u2018\x91\u201b\u2039", "`"),
    **dict.fromkeys("\u2019\x92\u203a", "'"),
    **dict.fromkeys("\u2013\u2014\u2015\x96\x97", "--"),
    **dict.fromkeys("\x80\xa4\u20a0\u20ac", "$"),
    **{"\xa2": "cents", "\xa3": "#", "\x85": "...", "\u2026": "...", "\xad": "-"},
    **{"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": "", "mdash": "--", "ndash": "--", "md": "--"}


def printed(character: str) -> str:
    """The printed form of a character that no rule joins to its neighbours."""
    return _PRINTED_AS.get(character, character)


def _as_it_is(token: str) -> str:
    return token.replace("(", "-LRB-").replace(")", "-RRB-").replace(" ", "\xa0")


def _without_soft_hyphens(token: str) -> str:
    return _as_it_is(token).replace("\xad", "") or "-"


def _blank(_: str) -> str:
    return ""


def _tag(token: str) -> str:
    return token.replace(" ", "\xa0")


def _clitic(token: str) -> str:
    return re.sub("[\u2019\x92]|&apos;", "'", token)


def _negation(token: str) -> str:
    token = re.sub("[\u2019\x92]|&apos;", "'", token)
    return re.sub("[\u2018\x91\u201b]", "`", token)


def _quotes(token: str) -> str:
    return "".join(map(printed, token))


def _entity(token: str) -> str:
    name = token[1:-1]
    return {"quot": "''", "apos": "'"}.get(name) or _ENTITIES.get(name.lower(), token)


def _dashes(token: str) -> str:
    return "--" if len(token) < 5 else token


def _ellipsis(_: str) -> str:
    return "..."


def _ampersand(token: str) -> str:
    return re.sub("(?i)&amp;", "&", token)


def _rule(start: str, pattern: str, rewrite: Callable[[str], str] = _as_it_is) -> Rule:
    return Rule(re.compile(f"[{start}]"), re.compile(pattern, re.ASCII), rewrite)


_ALPHA = f"{_LETTER}{_MARKS}{_SOFT}&"
_ALNUM = f"{_LETTER}{_DIGIT}"
_PHONE_PREFIX = "(?:\\([0-9]{2,3}\\)[ \\xa0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \\xa0])?[0-9]{2,4}[- \\xa0])"
_HYPHENATED = f"[A-Za-z0-9][A-Za-z0-9.,{_SOFT}]*(?:-[A-Za-z0-9{_SOFT}]+)"

RULES: tuple[Rule, ...] = (
    _rule(_BLANKS, f"([{_BLANKS}]+)", _blank),
    # Addresses, files, markup.
    _rule("Hh", f"((?i:https?)://{_URL}+{_URL_LAST})"),
    _rule("A-Za-z0-9<&", f"((?:<|&lt;)?[A-Za-z0-9]{_MAIL}*@{_MAIL_PART}+(?:\\.{_MAIL_PART}+)*>?)"),
    _rule("<", f"({_TAG})", _tag),
    _rule("&", "(&(?i:ht|tl|ur|lr|qc|ql|qr|odq|cdq);|&#[0-9]+;|&(?!quot|apos)(?i:quot|apos);)"),
    _rule("&", "(&(?i:amp|lt|gt|nbsp|mdash|ndash|md);|&(?:quot|apos);)", _entity),
    # Words.
    _rule(
        "A-Za-z", f"([A-Za-z])\\.[{_SPACE}]+(?:(?=[A-Z])(?:{_words(_SENTENCE_STARTS)}|(?i:mr|ms)\\.)|{_TAG})[{_SPACE}]"
    ),
    _rule("A-Za-z", f"((?:{_ABBREVIATION}|(?i:ph\\.d))\\.)(?:[ \\t\\xa0]?[{_LETTER}{_MARKS}]|-[A-Za-z0-9])?"),
    _rule(_ALNUM + _MARKS + _SOFT, f"((?:[{_ALNUM}{_MARKS}{_SOFT}]+\\.)+(?i:{_EXTENSION}))(?=[{_SPACE}.,!?])"),
    _rule(_ALPHA, f"({_WORD}){_APOSTROPHE}{_CLITIC}", _without_soft_hyphens),
    _rule(_ALPHA, f"({_WORD})", _without_soft_hyphens),
    *(
        rule
        for path in (f"/[^{_URL_END}]+{_URL_LAST}", "")
        for rule in (
            _rule("Ww", f"((?i:www)\\.(?:[^{_URL_END}{{}}.!?,]+\\.)+[A-Za-z]{{2,4}}{path})"),
            _rule(f"^{_NEWLINE}A-Z0-9", f"((?:[^{_HOST_END}]+\\.)+(?i:com|net|org|edu){path})"),
        )
    ),
    _rule(_ALPHA, f"({_WORD}\\.)[,;:\\u3001]", _without_soft_hyphens),
    _rule(_ALNUM, f"({_COMPOUND})"),
    _rule(_ALNUM, f"({_COMPOUND}\\.)[,;:\\u3001]"),
    _rule("A-Za-z0-9", f"({_HYPHENATED}+)", _without_soft_hyphens),
    _rule("A-Za-z0-9", f"({_HYPHENATED}+\\.)[,;:\\u3001]", _without_soft_hyphens),
    _rule(
        "A-Za-z0-9",
        f"({_HYPHENATED}*(?:-[A-Za-z0-9]+)*-(?:[A-Za-z]\\.){{2,}}(?:-(?:(?:[A-Za-z]\\.){{2,}}|[A-Za-z0-9]+))*)",
    ),
    _rule("A-Za-z0-9", "([A-Za-z0-9]+(?:-[A-Za-z]+){,2}(?:\\\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){,2}){1,2})"),
    _rule("A-Za-z", f"((?:{_TITLE}|[A-Za-z](?:\\.[A-Za-z])*)\\.)"),
    _rule("AaCcFfNnOoPp", f"({_words(_BEFORE_NUMBER)}\\.)[{_SPACE}]?[{_DIGIT}]"),
    _rule("AaPp", "((?i:anti|pro)-)"),
    _rule("A-Z", "([A-Z]+(?:(?:&(?i:amp);|[&+])[A-Z]+)+)", _ampersand),
    _rule("A-Z", "([A-Z]+(?:(?:&(?i:amp);|[&+])[A-Z]+)+\\.)[,;:\\u3001]", _ampersand),
    _rule("A-Z", "([A-Z]+\\$)"),
    _rule("CcFf", "([CcFf]#|[Cc]\\+\\+)"),
    # Apostrophes.
    _rule(
        _LETTER,
        f"([A-HJ-XZdlno]{_ANY_APOSTROPHE}[{_LETTER}]{{2,}}|[{_LETTER}]+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z][{_LETTER}]*)",
    ),
    _rule("A-Za-z", f"({_SPELLED_OUT})"),
    _rule("Yy", f"([Yy]{_APOSTROPHE})[{_LETTER}]"),
    _rule("Oo", f"([Oo]{_ANY_APOSTROPHE}[Oo])[^A-Za-z0-9]"),
    _rule(f"A-Za-z{_SOFT}", f"([A-Za-z{_SOFT}]*[A-MO-Za-mo-z]{_SOFT}*)(?i:n{_ANY_APOSTROPHE}t)", _without_soft_hyphens),
    _rule("Nn", f"((?i:n{_ANY_APOSTROPHE}t))", _negation),
    _rule("'", f"('{_CLITIC})[^A-Za-z]"),
    _rule("\u2019\x92&", f"((?:[\u2019\x92]|(?i:&apos;)){_CLITIC})", _clitic),
    _rule("\u2019\x92&", "((?:[\u2019\x92]|(?i:&apos;))[nN])"),
    _rule("'\u2019\x92&", f"({_APOSTROPHE}(?i:em|till?|cause|n{_APOSTROPHE}))"),
    _rule("'\u2019\x92&", f"({_APOSTROPHE}[nN])[ \\t\\xa0{_NEWLINE}]"),
    _rule("'", "((?i:'t))(?i:is|was)"),
    _rule("'\u2019\x92&", f"({_APOSTROPHE}[2-9]0[sS]|{_APOSTROPHE}[0-9]{{2}}(?=[{_SPACE}]))"),
    *(_rule(f"{head[0]}{head[0].upper()}", f"((?i:{head}))(?i:{tail})[^{_ALNUM}]") for head, tail in _SPLIT_WORDS),
    # Numbers.
    _rule(f"-+.:,{_SOFT}\\u066b\\u066c{_DIGIT}", f"([-+]?{_NUMBER})", _without_soft_hyphens),
    _rule(_DIGIT, f"((?:[{_DIGIT}]{{1,4}}[- \\xa0])?[{_DIGIT}]{{1,4}}(?:\\\\?/|\\u2044)[{_DIGIT}]{{1,4}})"),
    _rule(_DIGIT, f"([{_DIGIT}]{{1,2}}(?:-|\\\\?/)[{_DIGIT}]{{1,2}}(?:-|\\\\?/)[{_DIGIT}]{{2,4}})"),
    _rule("0-9(+", f"({_PHONE_PREFIX}[0-9]{{3,4}}[- \\xa0]?[0-9]{{3,5}})"),
    _rule("0-9+", "((?:\\+\\+?)?[0-9]{2,4}\\.[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5})"),
    # Signs.
    _rule("#", f"(#{_LETTERLIKE}+|#+)"),
    _rule("@", "(@[A-Za-z_][A-Za-z_0-9]*|@@+)"),
    _rule("<>:;=", "([<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]])[^A-Za-z0-9]"),
    _rule("-^x=~<>'", "([-^x=~<>']_[-^x=~<>'])"),
    _rule("(", "(\\((?:[-^x=~<>'][_.]?[-^x=~<>']|[\\^x=~<>']-[\\^x=~<>'`])\\))"),
    _rule("-", "(-(?i:[lr][rcs]b)-)"),
    _rule("-", "(--+)", _dashes),
    _rule(".", "(\\.{3,5}|\\.(?:[ \\xa0]\\.){2,4})", _ellipsis),
    _rule("!?_*`'<>\\\\", "([!?]+|_+|\\*+|(?:\\\\\\*)+|``|''|<<|>>)"),
    _rule(
        "\\xb2\\xb3\\xb9\\u2070\\u2074-\\u207b\\u2080-\\u208b",
        "([\\u207a\\u207b\\u208a\\u208b]?(?:[\\xb2\\xb3\\xb9\\u2070\\u2074-\\u2079]+|[\\u2080-\\u2089]+))",
    ),
    _rule(_QUOTES, f"([{_QUOTES}]{{1,2}})", _quotes),
)
