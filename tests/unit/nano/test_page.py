import re
from pathlib import Path

import pytest

from mblip.evaluation.results import PREDICTIONS
from mblip.nano.page import write_report
from mblip.nano.quickstart import _SHOWN, ANSWERS, samples
from mblip.nano.words import load_lexicon
from mblip.schema import Prediction
from mblip.storage import JsonlWriter

FIGURE = {"value": 0.5, "ci95": [0.4, 0.6]}
TASKS = {"naming": FIGURE, "naming_never_shown": FIGURE, "caption_2": FIGURE}
HEADLINE = {"naming_exact": FIGURE, "naming_exact_never_shown": FIGURE, "language_fidelity": FIGURE}
ROW = {**HEADLINE, "tasks": TASKS}
RESULT = {
    "says": "a <b> setting",
    "claim": "a claim",
    "headline": {"languages": 2, **HEADLINE},
    "tasks": TASKS,
    "languages": {"en": ROW, "ar": ROW},
    "seeds": 1,
}
REPORT = {
    "setting": "multilingual",
    "headline": {"languages": 2, "naming_exact": FIGURE, "language_fidelity": FIGURE},
    "tasks": TASKS,
    "languages": {"en": ROW, "ar": ROW},
    "ablations": {"multilingual": RESULT},
    "curve": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
    "mix": {"rows": 10, "tasks": {"naming": 10}, "languages": {"en": 10}, "drops": {"never shown": 3}},
    "seconds": 60.0,
    "peak_memory_mib": 900.0,
}
SAMPLE = {
    "image": "fox@0#1", "task": "naming", "language": "ar", "prompt": "Name the object in Arabic:",
    "answer": "<i>ثعلب", "reference": "وجه ثعلب",
}  # fmt: skip


def test_the_page_is_whole_and_offline(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path, [SAMPLE])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "50.0%" in page and "40.0% to 60.0%" in page
    assert "data:image/png;base64," in page
    assert not re.search(r"https?://|<script|url\((?!#)|(?:src|href)=[\"'](?!data:|#)", page)
    assert "&lt;i&gt;ثعلب" in page and "a &lt;b&gt; setting" in page
    assert "The scenes are new, but the objects in them are known" in page
    assert "| naming, exact | 50.0% | 40.0% to 60.0% |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_report_of_english_alone_compares_it_with_nothing(tmp_path: Path) -> None:
    alone = {"languages": {"en": ROW}}
    report = {**REPORT, **alone, "ablations": {"multilingual": {**RESULT, **alone}}}
    for one, there in ((report, False), (REPORT, True)):
        write_report(one, tmp_path, [])
        assert ("English and the others" in (tmp_path / "report.html").read_text(encoding="utf-8")) is there


@pytest.mark.parametrize(
    ("asked", "shown"),
    [(("en", "fr"), ["en", "fr"]), (("en", "sw", "iw", "xx"), ["sw", "iw", "en"]), (None, list(_SHOWN))],
)
def test_the_samples_are_in_languages_that_were_asked(
    asked: tuple[str, ...] | None, shown: list[str], tmp_path: Path
) -> None:
    codes = asked or load_lexicon().named_languages()
    rows = [Prediction(f"{code}-naming-0", "scenes_naming", "mul", ("fox@0#1",), "Name it:", code) for code in codes]
    folder = tmp_path / ANSWERS / PREDICTIONS
    folder.mkdir(parents=True)
    with JsonlWriter(folder / "scenes_naming-mul.jsonl") as file:
        for row in rows:
            file.write(row)
    assert [row["answer"] for row in samples(tmp_path)] == shown
