"""Filters: what they stop, and that good translations pass."""

from __future__ import annotations

import pytest

from mblip.config import FilterSection
from mblip.languages import LANGUAGES
from mblip.nano.words import load_lexicon
from mblip.translation.filters import (
    _SCRIPTS,
    keeps_numbers,
    language_confidence,
    longest_loop,
    rejection,
    says_twice,
    script_share,
)
from mblip.translation.numerals import _table, spoken_numbers

DEFAULT = FilterSection()
SOURCE = "A man with 3 dogs walks along the beach at noon."


@pytest.mark.parametrize(("translation", "language", "reason"), [
    ("Ein Mann geht mittags mit 3 Hunden am Strand entlang.", "de", ""),
    ("一名男子中午带着3只狗在海滩上散步。", "zh", ""),
    ("رجل يمشي مع ٣ كلاب على الشاطئ ظهرا.", "ar", ""),
    ("Mwanamume akiwa na mbwa 3 anatembea ufukweni saa sita mchana.", "sw", ""),
    ("", "de", "empty"),
    ("  ", "de", "empty"),
    ("a man with 3 dogs walks along the beach at noon", "de", "copied source"),
    ("Ein Mann geht mittags mit 3 Hunden am Strand entlang.", "ru", "wrong script"),
    ("Мужчина гуляет с 3 собаками по пляжу в полдень.", "de", "wrong script"),
    ("3", "de", "length ratio"),
    ("Ein Mann mit 3 Hunden " * 12, "de", "length ratio"),
    ("Ein 3 Hund Hund Hund Hund Hund Hund am Strand.", "de", "repetition"),
    ("Ein Mann geht mittags mit Hunden am Strand entlang.", "de", "lost number or placeholder"),
    ("Ein Mann geht mittags mit 33 Hunden am Strand entlang.", "de", "lost number or placeholder"),
])  # fmt: skip
def test_reasons(translation: str, language: str, reason: str) -> None:
    assert rejection(DEFAULT, SOURCE, translation, language) == reason


def test_the_originals_kurdish_is_in_arabic_letters() -> None:
    kurmanji, sorani = "Zilamek bi 3 kûçikan re li peravê dimeşe.", "پیاوێک لەگەڵ ٣ سەگ لە کەناراو پیاسە دەکات."
    assert [rejection(DEFAULT, SOURCE, text, "ku") for text in (kurmanji, sorani)] == ["", "wrong script"]
    assert [rejection(DEFAULT, SOURCE, text, "ku", "original") for text in (kurmanji, sorani)] == ["wrong script", ""]


@pytest.mark.parametrize(("source", "translation", "language", "reason"), [
    ("A dog runs on the beach.", "Ein Hund rennt am Strand. Ein Hund rennt am Strand.", "de", "repetition"),
    ("A dog runs on the beach.", "Ein Hund rennt am Strand, ein Hund rennt am Strand", "de", "repetition"),
    ("A dog runs on the beach.", "Ein Hund rennt am Strand. Er ist nass. Ein Hund rennt am Strand!", "de", "repetition"),
    ("A dog runs on the beach.", "一只狗在海滩上奔跑。一只狗在海滩上奔跑。", "zh", "repetition"),
    ("A dog runs on the beach.", "一只狗在海滩上奔跑一只狗在海滩上奔跑", "zh", "repetition"),
    ("A dog runs on the beach.", "एक कुत्ता समुद्र तट पर दौड़ता है। एक कुत्ता समुद्र तट पर दौड़ता है।", "hi", "repetition"),
    ("A dog runs. A dog runs. A dog runs.", "Ein Hund rennt. Ein Hund rennt. Ein Hund rennt.", "de", ""),
    ("Yes. Yes. It is.", "Ja. Ja. So ist es.", "de", ""),
    ("The children are playing.", "Anak-anak itu sedang bermain.", "id", ""),
    ("Two men, one with a red hat and one with a blue hat.", "Zwei Männer, einer mit rotem Hut und einer mit blauem Hut.",
    "de", ""),
    ("A dog.", "...", "de", "no letters"),
    ("A dog.", "⁇ ⁇", "de", "broken characters"), ("A dog.", "♪♪", "de", "no letters"),
    ("A dog.", "—", "sw", "no letters"),
    ("Three dogs", "3", "de", "no letters"), ("A dog.", "🐕", "de", "no letters"),
    ("...", "...", "de", ""), ("5", "5", "de", ""), ("A dog.", "Ein ⁇.", "de", "broken characters"),
    ("A dog.", "Ein \x02Hund.", "de", "broken characters"),
    ("A dog.", "Ein \ufffdund.", "de", "broken characters"),
    ("A dog.", "Ein Hund.\0", "de", "broken characters"),
    ("A dog.", "Ein \x7fHund", "de", "broken characters"),
    ("A dog.", "Ein \ue000Hund", "de", "broken characters"), ("A ⁇ dog.", "Ein ⁇ Hund.", "de", ""),
    ("A dog.", "یک سگ می\u200cدود", "fa", ""), ("A\tdog\ncat", "Ein\tHund\nKatze", "de", ""),
])  # fmt: skip
def test_what_looping_translators_make(source: str, translation: str, language: str, reason: str) -> None:
    assert rejection(DEFAULT, source, translation, language) == reason
    assert rejection(FilterSection(repeats=0, characters=False, length_ratio=0), source, translation, language) == ""


def test_looking_for_repeats_in_a_long_text_takes_no_time() -> None:
    import time

    started = time.process_time()
    assert not says_twice(" ".join(f"word{number}" for number in range(5000)))
    assert not says_twice("".join(chr(0x4E00 + number % 5000) for number in range(5000)))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("switch", [
    {"copied_words": 0}, {"script_share": 0}, {"length_ratio": 0}, {"repeats": 0}, {"numbers": False},
])  # fmt: skip
def test_each_can_be_switched_off(switch: dict[str, object]) -> None:
    bad = {
        "copied_words": SOURCE, "script_share": "Мужчина гуляет с 3 собаками по пляжу.", "length_ratio": "3 Hunde",
        "repeats": "Ein 3 Hund Hund Hund Hund Hund Hund am Strand.", "numbers": "Ein Mann geht mit Hunden am Strand.",
    }[next(iter(switch))]  # fmt: skip
    assert rejection(DEFAULT, SOURCE, bad, "de") != "" or "length_ratio" in switch
    assert rejection(FilterSection(**switch), SOURCE, bad, "de") == ""


@pytest.mark.parametrize(("text", "times"), [
    ("a dog, a cat, a bird", 1), ("ha ha ha ha", 1), ("a dog a dog a dog", 3), ("red, red, red, red", 4),
    ("狗在海滩狗在海滩狗在海滩狗在海滩", 4), ("the the the the the the the", 7), ("oooooh", 1), ("-" * 30, 30), ("", 1),
    ("very very good, very very good", 2),
    ("Hund hund hund hund", 4), ("Ein Hund ein Hund ein Hund ein Hund", 4),
    ("小狗小狗小狗小狗", 4), ("いぬいぬいぬいぬ", 4), ("개가 개가 개가 개가", 4), ("หมาหมาหมาหมา", 4),
    ("ОГОНЬ огонь Огонь огонь", 4),
    ("哈哈哈哈", 1), ("เร็วๆ", 1), ("no no no no", 1), ("ha-ha", 1),
])  # fmt: skip
def test_loops(text: str, times: int) -> None:
    assert longest_loop(text) == times


def test_long_text_without_loops_is_read_fast() -> None:
    import time

    text = " ".join(f"word{number} of a long text" for number in range(2000))
    started = time.process_time()
    assert longest_loop(text) == 1
    assert time.process_time() - started < 3


@pytest.mark.parametrize(("source", "translation", "kept"), [
    ("1,200 people", "1.200 Menschen", True), ("at 5:30", "um 5.30 Uhr", True), ("3 dogs", "৩টি কুকুর", True),
    ("3 and 3", "3", False), ("Caption in {language}:", "Beschreibung auf {language}:", True),
    ("Caption in {language}:", "Beschreibung auf {Sprache}:", False), ("<image> x", "x", False),
    ("see http://a.org/b", "siehe http://a.org/b", True), ("see http://a.org/b", "siehe dort", False),
])  # fmt: skip
def test_numbers_and_placeholders(source: str, translation: str, kept: bool) -> None:
    assert keeps_numbers(source, translation) is kept


@pytest.mark.parametrize(("source", "translation", "language", "kept"), [
    ("3 ladies running", "ثلاث سيدات يجرين", "ar", True), ("4 fishermen", "وأربعة صيادين", "ar", True),
    ("his 16th birthday", "عيد ميلاده السادس عشر", "ar", True), ("12 ladies", "اثنا عشر سيدة", "ar", True),
    ("2 kids", "طفلان يلعبان", "ar", True),
    ("6 kids", "ستة عشر طفلا", "ar", False), ("3 kids", "أطفال يلعبون", "ar", False),
    ("4 fishermen", "Quatre pêcheurs", "fr", True), ("4 fishermen", "Quatorze pêcheurs", "fr", False),
    ("4 fishermen", "Des pêcheurs", "fr", False),
    ("3 trains", "Des trains", "it", False), ("3 trains", "Tre treni", "it", True),
    ("2 dogs", "Zwei Hunde", "de", True),
    ("the 2nd dog", "der zweite Hund", "de", True), ("8 dogs", "Hunde bei Nacht", "de", False),
    ("1 of them", "Einer von ihnen", "de", True),
    ("2 and 2", "zwei und 2", "de", True), ("2 and 2", "zwei und drei", "de", False),
    ("2 dogs", "с двумя собаками", "ru", True),
    ("3 friends", "трёх друзей", "ru", True), ("3 friends", "друзья", "ru", False),
    ("3 people", "三人が歩く", "ja", True), ("3 people", "十三人が歩く", "ja", False), ("2 dogs", "两只狗", "zh", True),
    ("2 people", "ふたりの女性", "ja", True),
    ("3 people", "หญิงสามคน", "th", True), ("3 people", "ผู้หญิง", "th", False),
    ("3 people", "watu watatu", "sw", True),
    ("2 dogs", "mbwa wawili", "sw", True), ("5 people", "watu watatu", "sw", False),
    ("3 people", "세 명이 걷는다", "ko", True),
    ("2 people", "이 사람", "ko", False), ("3 dogs", "तीन कुत्ते", "hi", True),
    ("3 dogs", "üç köpek", "tr", True),
    ("10 dogs", "onlar koşuyor", "tr", False), ("3 dogs", "ba con chó", "vi", True),
    ("3 dogs", "bà và chó", "vi", False),
    ("3 dogs", "tatlong aso", "fil", True), ("3 dogs", "תשלוש", "iw", False),
    ("3 dogs", "ושלושה כלבים", "iw", True),
    ("21 dogs", "vingt et un chiens", "fr", False), ("3 dogs", "3টি কুকুর", "bn", True),
    ("3 dogs", "তিনটি কুকুর", "bn", False),  # CLDR has no rules for Bengali: digits alone count
    ("3 dogs", "३ कुत्ते", "hi", True),
    ("37,000 dollars", "３７，０００ドル", "ja", True), ("1,200 people", "1200 Menschen", "de", True),
    ("1,200 people", "1 200 personnes", "fr", True), ("1,200,000 people", "12,00,000 लोग", "hi", True),
    ("1,200 people", "200 Menschen", "de", False),
    ("2.5 metres", "2,5 Meter", "de", True), ("2.5 metres", "25 Meter", "de", False),
    ("50%", "50 %", "fr", True), ("12/5/2010", "5.12.2010", "de", True), ("12/5/2010", "5.12.", "de", False),
    ("{count} of 2", "{count} von zwei", "de", True), ("{count} of 2", "eins von zwei", "de", False),
])  # fmt: skip
def test_a_number_may_be_written_as_a_word(source: str, translation: str, language: str, kept: bool) -> None:
    assert keeps_numbers(source, translation, language) is kept
    assert (rejection(FilterSection(script_share=0, length_ratio=0), source, translation, language) == "") is kept


def test_the_words_of_numbers_are_those_of_known_languages_and_each_means_itself() -> None:
    languages = set(_table())
    assert len(languages) >= 60
    assert languages <= set(LANGUAGES)
    for language, numbers in _table().items():
        assert sorted(numbers) == list(range(1, 21))
        unseen = [
            number for number, words in numbers.items() if not any(number in spoken_numbers(w, language) for w in words)
        ]
        assert unseen == [], language


def test_every_language_has_a_script_and_its_names_are_in_it() -> None:
    assert {language.script for language in LANGUAGES.values()} <= set(_SCRIPTS)
    lexicon = load_lexicon()
    for code in lexicon.languages:
        shares = [script_share(lexicon.name(c, code) or "", LANGUAGES[code].script) for c in lexicon.concepts]
        assert sum(shares) / len(shares) > 0.98, code


def test_language_detection_where_lingua_knows_the_language() -> None:
    german = "Ein Mann geht mittags mit drei Hunden am Strand entlang."
    likely, unlikely = language_confidence(german, "de"), language_confidence(german, "nl")
    assert likely is not None and likely > 0.5
    assert unlikely is not None and unlikely < 0.1
    assert language_confidence(german, "ceb") is None
    section = FilterSection(language_words=5, numbers=False)
    assert rejection(section, SOURCE, german, "nl") == "wrong language"
    assert rejection(section, SOURCE, german, "de") == ""
    assert rejection(section, SOURCE, german, "ceb") == ""
