"""Language fidelity, with a detector made for the test and with lingua."""

import pytest

from mblip.errors import InputError
from mblip.evaluation.metrics.fidelity import LinguaDetector, is_separable, language_fidelity
from mblip.evaluation.metrics.segmentation import default_segmenter, segmenter, segmenter_scheme


class FirstWord:
    """Says what the first word says."""

    name = "first-word"

    def __init__(self, *languages: str) -> None:
        self.languages = frozenset(languages)

    def detect(self, text: str) -> str | None:
        return text.split()[0] if text.split() else None


def test_the_share_of_answers_in_the_language() -> None:
    answers = ["de Hund", "en dog", "de Katze", ""]
    assert language_fidelity(answers, "de", FirstWord("de", "en")) == 0.5


def test_no_figure_where_the_detector_cannot_tell() -> None:
    assert language_fidelity(["mt x"], "mt", FirstWord("de", "en")) is None
    assert language_fidelity(["id x"], "id", FirstWord("id", "ms")) is None
    assert language_fidelity(["id x"], "id", FirstWord("id", "en")) == 1
    assert is_separable("en", FirstWord("id", "ms", "en"))
    assert language_fidelity([], "de", FirstWord("de")) is None


def test_lingua() -> None:
    detector = LinguaDetector(["de", "en", "fr", "sw", "ht"])
    assert detector.languages == {"de", "en", "fr", "sw"}  # it does not know Haitian
    german = ["Ein Mann reitet auf einem Pferd.", "Zwei Hunde spielen im Schnee."]
    assert language_fidelity(german, "de", detector) == 1
    assert language_fidelity([*german, "A man rides a horse on the beach."], "de", detector) == pytest.approx(2 / 3)
    assert language_fidelity(german, "ht", detector) is None
    with pytest.raises(InputError, match="needs two or more languages"):
        LinguaDetector(["ht", "lb"])


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("zh", "一只猫 ok", "一 只 猫   o k"),
        ("ja", "猫が寝ている", "猫 が 寝 て いる"),
        ("th", "แมวนอนบนเตียง", "แมว นอน บน เตียง"),
    ],
)
def test_spacy_segmentation(language: str, text: str, words: str) -> None:
    assert segmenter("spacy", language)(text).split() == words.split()
    assert segmenter_scheme("spacy", language).startswith("spacy spacy-3.")


def test_other_segmenters() -> None:
    assert segmenter("none", "de")("ab c") == "ab c"
    assert segmenter("characters", "ja")("猫が") == "猫 が"
    assert [default_segmenter(code) for code in ("de", "ja", "th", "zh")] == ["none", "spacy", "spacy", "spacy"]
    with pytest.raises(InputError, match="did you mean 'characters'"):
        segmenter("character", "ja")
    with pytest.raises(InputError, match="choose 'none'"):
        segmenter("spacy", "de")
