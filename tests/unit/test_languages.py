from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from mblip.errors import InputError
from mblip.languages import (
    BENCHMARK_LANGUAGES,
    LANGUAGES,
    _fold,
    exact_language,
    find_code,
    find_language,
    find_languages,
    known_language,
)

# Target tags in the vocabulary of google/madlad400-3b-mt that a wrong guess would miss.
MADLAD_TAGS = {
    "iw": "<2he>",
    "no": "<2no>",
    "fil": "<2fil>",
    "jv": "<2jv>",
    "ku": "<2ku>",
    "zh": "<2zh>",
    "yi": "<2yi>",
}


def test_table_has_96_languages_in_order_whose_shares_add_up() -> None:
    assert len(LANGUAGES) == 96
    assert list(LANGUAGES) == sorted(LANGUAGES)
    assert sum(language.mc4_share for language in LANGUAGES.values()) == pytest.approx(100)
    assert sum(language.mt5_share for language in LANGUAGES.values()) == pytest.approx(100)
    assert max(LANGUAGES.values(), key=lambda language: language.mc4_share).code == "en"


def test_every_nllb_code_is_in_the_list_that_transformers_carries() -> None:
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    codes = {language.nllb for language in LANGUAGES.values()}
    assert len(codes) == 96
    assert codes <= set(FAIRSEQ_LANGUAGE_CODES)
    assert {language.original_nllb for language in LANGUAGES.values()} <= set(FAIRSEQ_LANGUAGE_CODES)


def test_script_agrees_with_the_nllb_code() -> None:
    same = {"Kore": "Hang"}
    for language in LANGUAGES.values():
        assert same.get(language.script, language.script) == language.nllb[-4:], language.code
        assert language.direction == ("rtl" if language.script in ("Arab", "Hebr") else "ltr")


def test_madlad_tags() -> None:
    assert {code: LANGUAGES[code].madlad for code in MADLAD_TAGS} == MADLAD_TAGS
    assert len({language.madlad for language in LANGUAGES.values()}) == 96


def test_tags_and_names_are_those_of_cldr() -> None:
    from babel import Locale

    for language in LANGUAGES.values():
        if language.code != "sm":
            assert language.own_name == Locale.parse(language.bcp47).get_display_name(language.bcp47)


def test_every_spelling_finds_its_own_language() -> None:
    table = {**LANGUAGES, **BENCHMARK_LANGUAGES}
    claimed: dict[str, str] = {}
    for language in table.values():
        spellings = (language.code, language.bcp47, language.nllb, language.name, language.own_name, *language.aliases)
        for spelling in filter(None, spellings):
            assert claimed.setdefault(_fold(spelling), language.code) == language.code
            assert find_language(spelling.upper()) is language
            assert find_language(f" {spelling.lower()} ") is language
    assert len(claimed) > 300


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Kiswahili", "sw"),
        ("he", "iw"),
        ("Hebrew", "iw"),
        ("nb", "no"),
        ("espanol", "es"),
        ("pt-BR", "pt"),
        ("pt_br", "pt"),
        ("zh-CN", "zh"),
        ("zh-Hans", "zh"),
        ("es-419", "es"),
        ("Türkçe", "tr"),
        ("swh", "sw"),
        ("Haitian", "ht"),
        ("中文", "zh"),
    ],
)
def test_find_language(text: str, code: str) -> None:
    assert find_language(text).code == code


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("swahilli", "'sw' (Swahili)"),
        ("Portugese", "'pt' (Portuguese)"),
        ("Deutch", "'de' (German) or 'nl' (Dutch)"),
        ("Mala", "'ms' (Malay), 'ml' (Malayalam) or 'mg' (Malagasy)"),
        ("slov", "'sl' (Slovenian) or 'sk' (Slovak)"),  # cut short
        ("Gaelic", "'ga' (Irish) or 'gd' (Scottish Gaelic)"),  # a word of both names
        ("Portugês", "'pt' (Portuguese)"),
        ("हिन्द", "'hi' (Hindi)"),
        ("engl", "'en' (English)"),
        ("swq", "'sw' (Swahili) or 'sq' (Albanian)"),
        ("deu_Laten", "'de' (German)"),
        ("hindi-latn", "'hi' (Hindi)"),  # not Indonesian, whose code ind_Latn is more similar
        ("sr-Latin", "'sr' (Serbian)"),
        ("Serbian (Latin)", "'sr' (Serbian)"),
        ("zh-Simplified", "'zh' (Chinese)"),
        ("Norwegian Nynorsk", "'no' (Norwegian)"),
        ("Yiddish German Dutch Danish", "'yi' (Yiddish), 'de' (German) or 'nl' (Dutch)"),
        ("nn", "'no' (Norwegian)"),  # a language of its own, counted to the one that is here
        ("yue-Hant-HK", "'zh' (Chinese)"),
        ("arz", "'ar' (Arabic)"),
        ("ckb_Arab", "'ku' (Kurdish)"),
    ],
)
def test_unknown_language_suggests_the_nearest(text: str, near: str) -> None:
    said = f"unknown language {text!r}; did you mean {near}? mblip languages lists all 96"
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        find_language(text)


@pytest.mark.parametrize(
    ("text", "near"),
    [("jp", "'ja' (Japanese)"), ("CN", "'zh' (Chinese)"), ("cz", "'cs' (Czech)"), ("dk", "'da' (Danish)"),
     ("gr", "'el' (Greek)"), ("il", "'iw' (Hebrew)"), ("us", "'en' (English)"), ("mx", "'es' (Spanish)"),
     ("hk", "'zh' (Chinese)"), (" ir ", "'fa' (Persian)")],
)  # fmt: skip
def test_the_code_of_a_country_suggests_its_language(text: str, near: str) -> None:
    hint = re.escape(f"; did you mean {near}? {text.strip().upper()} is the code of a country; mblip languages")
    with pytest.raises(InputError, match=f"^unknown language {text!r}{hint}"):
        find_language(text)


# "kr", "se" and "br" are languages of their own (Kanuri, Northern Sami, Breton): "ukr" is as wrong as Korean.
@pytest.mark.parametrize(
    "text",
    ["klingon", "Dothraki", "Quenya", "Tibetan", "xx", "zz", "un", "qq", "?!", "ug", "kr", "se", "br", "python"],
)
def test_no_language_is_suggested_where_none_is_near(text: str) -> None:
    with pytest.raises(InputError, match=f"^unknown language '{re.escape(text)}'; mblip languages lists all 96$"):
        find_language(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "klingon",
        "ckb_Arab",
        "en-",
        "-",
        "e\0n",
        "x" * 10_000,
        "C.UTF-8",
        "POSIX",
        "und",
        "mul",
        "x-foo",
        "en-zz-zz",
    ],
)
def test_what_is_not_a_language_of_the_table_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unknown language"):
        find_language(text)


# Tags as other programs write them: BCP-47, ISO 639-2 B and T, ISO 639-3, POSIX, .NET, Android, and outdated ones.
TAGS = {
    "zh": "zh-Hans-CN zh-Hant-TW zh-TW zh-HK zho_Hant zh-CHS zh-CHT chi zho cmn-Hans zh-cmn-Hans-CN zh_CN.GB18030 zh-guoyu",
    "sr": "sr-Cyrl-RS sr_RS.UTF-8@cyrillic scc srp sh hbs sr-RS",
    "az": "az-Latn-AZ aze az_AZ azj-Latn az-AZ-Latn",
    "uz": "uz-Latn-UZ uzb uz_UZ.UTF-8 uzn",
    "de": "de_DE.UTF-8 ger deu de-CH-1901 de_AT@euro de-DE-u-co-phonebk DE-de de_DE.ISO-8859-15@euro",
    "ca": "ca@valencia ca_ES.UTF-8@valencia ca-valencia cat",
    "pt": "pt_BR pt-rBR por pt_BR.utf8 pt-PT-x-private",
    "iw": "iw he heb he-IL iw_IL.UTF-8 iw-IL",
    "id": "id in ind in_ID id-ID",
    "yi": "yi ji yid ydd",
    "no": "no nb nor nob nb_NO.UTF-8 no-bok no_NO",
    "fil": "fil tl tgl tl_PH fil-PH",
    "jv": "jv jw jav",
    "ro": "mo rum ron mo-MD ro-MD",
    "fa": "per fas pes fa-AF prs",
    "ms": "may msa zsm ms_MY",
    "sq": "alb sqi als",
    "my": "bur mya my-MM",
    "ku": "kmr kur kmr_Latn ku-TR",
    "sw": "swa swh sw_KE sw-CD <2sw> __sw__ <|sw|> >>swa<< __label__swh_Latn",
    "cs": "cze ces cs_CZ.UTF-8",
    "el": "gre ell el-polyton",
    "lb": "i-lux ltz lb-LU",
    "et": "ekk est",
}


@pytest.mark.parametrize(("code", "tags"), TAGS.items())
def test_tags_of_other_programs(code: str, tags: str) -> None:
    assert {tag: find_language(tag).code for tag in tags.split()} == dict.fromkeys(tags.split(), code)


def test_every_language_is_found_by_every_standard() -> None:
    import langcodes

    for language in LANGUAGES.values():
        tag = langcodes.Language.get(language.bcp47)
        forms = {
            tag.maximize().to_tag(),
            tag.to_alpha3(),
            tag.to_alpha3(variant="B"),
            f"{language.bcp47}-{language.script}",
        }
        locale = f"{language.bcp47}_{tag.maximize().territory}.UTF-8"
        for form in (*forms, locale, language.madlad, f"__label__{language.nllb}", language.nllb.replace("_", "-")):
            assert find_language(form) is language, form


@pytest.mark.parametrize(
    "tag",
    [
        "sr-Latn",
        "sr_RS@latin",
        "uz_UZ@cyrillic",
        "pa-PK",
        "ku-Arab",
        "hi-Latn",
        "ja-Latn",
        "ms-Arab",
        "zh-Latn",
        "kk-CN",
    ],
)
def test_another_script_is_refused_with_the_reason(tag: str) -> None:
    with pytest.raises(InputError, match=r"is written in \w{4} here, not in \w{4}; did you mean '\w+' \(\w+"):
        find_language(tag)


@pytest.mark.parametrize("tag", ["ckb", "yue", "nn", "arz", "bs", "gsw", "prs-Cyrl", "zh-yue", "no-nyn", "nds", "sco"])
def test_a_language_of_its_own_is_not_taken_for_its_neighbour(tag: str) -> None:
    with pytest.raises(InputError, match="unknown language"):
        find_language(tag)


def test_files_with_codes_of_their_own_are_read_exactly() -> None:
    assert exact_language("SR") is LANGUAGES["sr"]
    assert exact_language("SH") is exact_language("zh-Hant-TW") is exact_language("klingon") is None


def test_text_that_names_no_language_costs_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a million rows ask; a guess at what was meant takes milliseconds."""
    monkeypatch.setattr("mblip.languages._hint", lambda *words: pytest.fail("a guess nobody reads"))
    assert [known_language(text) for text in ("", "the object in the middle", "klingon", "swahilli", "sr-Latn")] == [
        None
    ] * 5
    assert [known_language(text) for text in ("Kiswahili", "de_DE.UTF-8")] == [LANGUAGES["sw"], LANGUAGES["de"]]


def test_a_list_of_languages() -> None:
    assert [language.code for language in find_languages(" sw,Deutsch , chi,swa,")] == ["sw", "de", "zh"]
    assert find_languages("") == []
    with pytest.raises(InputError, match="' , ' names no language"):
        find_languages(" , ")
    for search in (find_languages, find_code):
        with pytest.raises((InputError, ValueError)) as error:
            search("Swahilli")
        assert str(error.value) == (
            "unknown language 'Swahilli'; did you mean 'sw' (Swahili)? mblip languages lists all 96"
        )


def test_original_profile_changes_exactly_what_the_original_had_wrong() -> None:
    changed = {}
    for code, language in LANGUAGES.items():
        original = language.in_profile("original")
        assert language.in_profile("correct") is language
        if original != language:
            changed[code] = (original.name, original.nllb, original.script, original.direction)
    assert changed == {
        "ht": ("Haitian", "hat_Latn", "Latn", "ltr"),
        "iw": ("former Hebrew", "heb_Hebr", "Hebr", "rtl"),
        "ku": ("Kurdish", "ckb_Arab", "Arab", "rtl"),
        "zh": ("Chinese", "zho_Hant", "Hant", "ltr"),
    }
    assert LANGUAGES["pt"].in_profile("original", "xm3600").name == "Portugese"
    assert LANGUAGES["fa"].in_profile("original", "maxm").name == "Persian"


def test_codes_of_benchmarks() -> None:
    assert LANGUAGES["iw"].code_in("maxm") == "iw"
    assert LANGUAGES["iw"].code_in("xm3600") == "he"
    assert LANGUAGES["no"].code_in("xm3600") == "no"
    assert LANGUAGES["id"].code_in("marvl") == "id"
    xm3600 = (
        "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"
    )
    assert all(find_language(code).code_in("xm3600") == code for code in xm3600.split())


def test_a_language_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LANGUAGES["en"].name = "x"  # type: ignore[misc]


def test_verb_prints_all_languages() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "mblip", "languages", *arguments]
        return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout

    rows = json.loads(run("--json"))
    assert [row["code"] for row in rows] == list(LANGUAGES)
    assert rows[0]["own_name"] == "Afrikaans"
    assert json.loads(run("--json", "--profile", "original"))[36]["name"] == "former Hebrew"
    table = run()
    assert all(language.own_name.split()[0][:8] in table for language in LANGUAGES.values())
