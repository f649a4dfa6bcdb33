import re
from pathlib import Path

from mblip.nano.page import write_report

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
