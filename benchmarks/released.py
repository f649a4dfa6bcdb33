"""The released mix at size: rows a second and memory of ``mblip data mix released``, and every text byte for byte.

    python benchmarks/released.py [ROWS] [FOLDER]

writes a list of ``{"context", "label", "image_id"}`` in the layout of ``task_mix_v2_mt.json``, its parts in the order and in
the proportions of the paper, with invented texts in ten languages, and reads it back from the mix.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

_PAPER = {
    "web_captions": 2_273_005, "coco_captions": 414_000, "llava_detail": 23_000, "llava_conversation": 219_000,
    "aokvqa_reasoning": 33_000, "aokvqa_explanation": 33_000, "vqav2": 444_000, "question_generation": 444_000,
    "web_matching": 600_000, "imagenet_naming": 295_856, "imagenet_presence": 295_856,
}  # fmt: skip
_WORDS = {
    "English": "a dog runs on the beach with people houses trees and old boats",
    "Swahili": "mbwa anakimbia ufukweni pamoja na watu nyumba miti na mashua za zamani",
    "German": "ein Hund läuft am Strand mit Menschen Häusern Bäumen und alten Booten",
    "Russian": "собака бежит по пляжу с людьми домами деревьями и старыми лодками",
    "Chinese": "一只 狗 在 海滩 上 跑 旁边 有 人 房子 树 和 旧 船",
    "Arabic": "كلب يجري على الشاطئ مع ناس وبيوت وأشجار وقوارب قديمة",
    "Turkish": "bir köpek sahilde insanlar evler ağaçlar ve eski tekneler ile koşuyor",
    "Hebrew": "כלב רץ על החוף עם אנשים בתים עצים וסירות ישנות",
    "Thai": "สุนัข วิ่ง บน ชายหาด กับ ผู้คน บ้าน ต้นไม้ และ เรือ เก่า",
    "Hindi": "एक कुत्ता समुद्र तट पर लोगों घरों पेड़ों और पुरानी नावों के साथ दौड़ता है",
}
_NAMED = ("Put it into a caption, in {l}.", "A short {l} caption:", "Describe the image briefly in {l}:")


def rows(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Part and row, in the order of the merged file."""
    draw, number = random.Random(7), 0
    whole = sum(_PAPER.values())

    def text(language: str, words: int) -> str:
        return " ".join(draw.choices(_WORDS[language].split(), k=words))

    for part, share in _PAPER.items():
        for _ in range(round(count * share / whole)):
            number += 1
            lang = draw.choice(list(_WORDS))
            coco = f"COCO_train2014_{draw.randrange(600_000):012d}.jpg"
            image, prompt, answer = coco, "", f"{text(lang, 9)} \u00a0{number}\n"
            match part:
                case "web_captions" | "coco_captions":
                    prompt = draw.choice(_NAMED).format(l=lang)
                    image = f"{number:08d}.jpg" if part == "web_captions" else coco
                case "llava_detail":
                    prompt, answer = f"Describe the photo in detail in {lang}.", text(lang, 70)
                case "llava_conversation":
                    prompt = f"{text(lang, 5)}? Answer in {lang}."
                case "aokvqa_reasoning":
                    prompt = f"{text(lang, 5)}? Explain your answer in {lang}:"
                case "aokvqa_explanation":
                    prompt = f"Question: {text(lang, 5)}? Answer: {text(lang, 1)}. Give the reason in {lang}:"
                case "vqav2":
                    prompt, answer = f"{text(lang, 6)} {number}? Short answer in {lang}:", text(lang, 2)
                case "question_generation":
                    prompt, answer = f'Write a question in {lang} that has the answer "{text(lang, 1)}":', f"{answer}?"
                case "web_matching":
                    image, answer = f"{draw.randrange(count):08d}.jpg", draw.choice(["yes", "no"])
                    prompt = f'Does the caption "{text(lang, 8)} {number}" fit the image? Yes or no, in {lang}:'
                case _:
                    image = f"n{draw.randrange(1000):08d}/n_{number}.JPEG"
                    prompt, answer = f"The name of this in {lang}:", text(lang, 1)
                    if part == "imagenet_presence":
                        prompt, answer = f"Is there a {text(lang, 1)} here? Yes or no in {lang}:", "yes"
            yield part, {"context": prompt, "label": answer, "image_id": image}


def main() -> None:
    """Write, mix, read back, compare."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "released-benchmark")
    folder.mkdir(parents=True, exist_ok=True)
    data, mix = folder / "task_mix.json", folder / f"mix-{count}"
    counts: Counter[str] = Counter()
    wanted: Counter[bytes] = Counter()
    with data.open("w", encoding="utf-8") as file:
        for part, row in rows(count):
            file.write(("[" if not counts else ", ") + json.dumps(row, ensure_ascii=False))
            counts[part] += 1
            if part != "question_generation":
                wanted[_digest(row["image_id"], row["context"], row["label"])] += 1
        file.write("]")
    started = time.monotonic()
    command = [sys.executable, "-m", "mblip", "data", "mix", "released", f"sources.released.options.path={data}"]
    process = subprocess.Popen([*command, "--to", str(mix)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("mblip data mix failed")
    seconds = time.monotonic() - started
    found: Counter[bytes] = Counter()
    for shard in sorted(mix.glob("*.parquet")):
        table = pq.read_table(shard, columns=["images", "prompt", "answer"])
        for images, prompt, answer in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found[_digest(images[0], prompt, answer)] += 1
    manifest = json.loads((mix / "manifest.json").read_text(encoding="utf-8"))
    drops = manifest["drops"]
    told = {name.partition("/")[2]: number for name, number in manifest["by_source"].items()}
    again = Counter(
        drop["source"].partition("/")[2] for drop in map(json.loads, (mix / "exclusions.jsonl").open(encoding="utf-8"))
    )
    print(
        f"{sum(counts.values()):,} rows, {data.stat().st_size / 1e6:.0f} MB: {sum(counts.values()) / seconds:,.0f} rows/s"
    )
    print(f"processor time {usage.ru_utime + usage.ru_stime:.0f} s, peak memory {usage.ru_maxrss / 1024:,.0f} MiB")
    print(f"drops {drops}")
    print(
        f"counts by source equal: {all(told.get(part, 0) + again[part] == number for part, number in counts.items())}"
    )
    print(f"every kept text byte for byte: {found.keys() == wanted.keys() and all(n == 1 for n in found.values())}")


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=12).digest()


if __name__ == "__main__":
    main()
