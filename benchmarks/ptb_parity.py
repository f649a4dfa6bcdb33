"""How often our PTB tokeniser agrees with the Java one: python benchmarks/ptb_parity.py --bench FOLDER [--strings N].

Strings in more than thirty scripts, two thirds of them real captions and questions that were mutated (web addresses,
abbreviations, quotes, numbers, clitics, fractions, emoji, other scripts put in; letters dropped, swapped, turned around),
go through one run of the jar that pycocoevalcap carries, and through ours. Prints the rate and every string that differs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The punctuation that pycocoevalcap drops after the jar has run.
DROPPED = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
# A line of its own between two strings, so that no context reaches from one into the next.
SEPARATOR = "|"

PIECES = [
    "http://www.example.com/a?b=1&c=2",
    "https://t.co/x",
    "www.foo.org",
    "foo.com",
    "bar.net/x/y",
    "a@b.com",
    "x.y@z.co.uk",
    "index.html",
    "photo.jpg",
    "Mr.",
    "Mrs.",
    "Dr.",
    "U.S.",
    "U.S.A.",
    "U.K.",
    "p.m.",
    "a.m.",
    "e.g.",
    "i.e.",
    "etc.",
    "vs.",
    "Inc.",
    "Corp.",
    "Jan.",
    "St.",
    "No.",
    "no.",
    "fig.",
    "Ph.D.",
    "D.C.",
    "J.R.R.",
    "s.",
    "The",
    "B.",
    "It",
    "a.",
    "If",
    "can't",
    "won't",
    "I'm",
    "you're",
    "he'd",
    "we've",
    "dog's",
    "dogs'",
    "'tis",
    "'twas",
    "'em",
    "'n'",
    "rock'n'roll",
    "o'clock",
    "l'homme",
    "d'eau",
    "j'ai",
    "qu'il",
    "c'est",
    "gonna",
    "wanna",
    "cannot",
    "gimme",
    "lemme",
    "gotta",
    '"quoted"',
    "'single'",
    "“curly”",
    "‘single’",
    "«guillemets»",
    "„low“",
    "‚low‘",
    "don’t",
    "it’s",
    "l’été",
    "y'all",
    "ma'am",
    "O'Brien",
    "Xi'an",
    "1,000",
    "3.14",
    "1/2",
    "3/4",
    "10-20",
    "$5",
    "$5.00",
    "US$5",
    "€20",
    "£10",
    "¥100",
    "50%",
    "1st",
    "2nd",
    "90s",
    "'90s",
    "1990s",
    "12:30",
    "12/25/2003",
    "2003-12-25",
    "555-1234",
    "1.5m",
    "½",
    "¼",
    "¾",
    "⅓",
    "²",
    "³",
    "①",
    ":-)",
    ":)",
    ";-)",
    ":(",
    ":P",
    ":D",
    "^_^",
    ">_<",
    "-_-",
    "<3",
    "xD",
    "(-_-)",
    "#tag",
    "#日本",
    "@user",
    "&",
    "AT&T",
    "R&D",
    "A+B",
    "C++",
    "C#",
    "F#",
    "&amp;",
    "&lt;",
    "&quot;",
    "&nbsp;",
    "&#39;",
    "&apos;",
    "&eacute;",
    "<b>",
    "</b>",
    "<a",
    'href="x">',
    "<br/>",
    "<!--",
    "...",
    "..",
    "…",
    "--",
    "---",
    "-",
    "–",
    "—",
    "/",
    "and/or",
    "w/o",
    "km/h",
    "\\",
    "|",
    "~",
    "^",
    "*",
    "**",
    "_",
    "__",
    "+",
    "=",
    "==",
    "<",
    ">",
    "<<",
    ">>",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "!",
    "!!",
    "!!!",
    "?",
    "??",
    "?!",
    ";",
    ":",
    ",",
    ".",
    "state-of-the-art",
    "T-shirt",
    "x-ray",
    "mid-90s",
    "4x4",
    "2-3",
    "a.b",
    "a.b.c",
    "1.2.3",
    "v1.0",
    "😀",
    "🐶",
    "👨\u200d👩\u200d👧",
    "❤",
    "☺",
    "☀️",
    "🇩🇪",
    "日本",
    "中文",
    "한국",
    "ไทย",
    "हिन्दी",
    "العربية",
    "עברית",
    "ελληνικά",
    "русский",
    "ქართული",
    "հայերեն",
    "বাংলা",
    "தமிழ்",
    "తెలుగు",
    "ಕನ್ನಡ",
    "മലയാളം",
    "ગુજરાતી",
    "ਪੰਜਾਬੀ",
    "සිංහල",
    "မြန်မာ",
    "ខ្មែរ",
    "ລາວ",
    "አማርኛ",
    "བོད་",
    "ᐃᓄᒃ",
    "ᏣᎳᎩ",
    "ⵜⴰⵎ",
    "Ⅳ",
    "№",
    "™",
    "°",
    "5°",
    "°C",
    "100°F",
    "µm",
    "×2",
    "÷",
    "±",
    "−",
    "・",
    "、",
    "。",
    "「」",
    "！",
    "？",
    "，",
    "：",
    "；",
    "（）",
    "ー",
    "～",
    "ﾃｽﾄ",
    "１２３",
    "ＡＢＣ",
    "،",
    "؟",
    "؛",
    "।",
    "॥",
    "׳",
    "״",
    "־",
    "·",
    "•",
    "¡",
    "¿",
    "§",
    "¶",
    "†",
    "‡",
    "‰",
    "‹",
    "›",
]
SPECIAL = [
    "(555) 123-4567",
    "+1 555-123-4567",
    "1 1/2",
    "\u200b",
    "\u200d",
    "\u00ad",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\u2009",
]
PIECES += SPECIAL
# Fractions, powers, times, money, faces, quotes, dashes, markup, lists, names of files and people.
SIGNS = (
    "1⁄2 12-3⁄4 1\\/2 m⁻¹ cm⁻² x₋₁ ⁺⁴ 3² H₂O ⅛ 2⅝ ½-inch 10:30pm 7h30 2003-12-25T10:30Z 25.12.2003 3月4日 ’90s "
    "mid-’80s 1990-95 US$1,000 -$5 $.50 5¢ ₹500 ￥100 5€ 20K 1e-9 0x1F .5 5. 3rd 21ST 2º 1ª 5'11\" 6′ 7″ 20°C "
    "10km² 1.5x x12 +49-30-1234567 555.123.4567 (030)123456 :-* ;P =D :'( >:( o_O (^_^) (=^.^=) ¯\\_(ツ)_/¯ "
    "(╯°□°) <_< 8) u_u 〝x〟 ‟x‛ ＂x＂ ＇x `x' ``x'' ´x´ ′x ʼn ＇s x‐y x‑y x‒y x―y x－y x〜y x־y --x- x.. ‥ "
    "。。。 !?! <img/> <p> <a> <?xml?> &#8217; &#x27; &hellip; &ldquo; &Uuml; &bogus; &amp;amp; ◦ ▪ ‣ 1) (a) iv. "
    "➢ ✓ ☐ x.tar.gz x.PDF, a_b.py /usr/x C:\\x user@host me@x.y.z, @a_b #a_b #1 ##x ftp://x.y mailto:a@b.c "
    "HTTP://X.COM/ x.com? J.R.R. B.Sc. M.D. z.B. т.е. Messrs. cf. al. Sept. Tues. Mass. op. art. prop. Ft. Ave. "
    "e'er ne'er y’all ’tis ’n’ rock’n’roll aujourd'hui dell'arte O’Neil D'Angelo s'mores nat'l i'd've she'll've "
    "ain’t CAN'T don&apos;t -LRB- -rsb- 【x】 《x》 ⟨x⟩ （x） √2 ≤3 x≠y a→b ∞ "
)
PIECES += SIGNS.split()
BLANKS = "\t\x1f\x7f\x96\u034f\u061c\u1680\u180e\u2003\u200a\u200e\u202f\u205f\u2060\u2066\ufe0f\ufffd"
PIECES += [*BLANKS, *(f"No.{blank}5" for blank in BLANKS)]
SCRIPTS = [
    "aeiouxyz",
    "AEIOUXYZ",
    "éüñçßøÅ",
    "αβγΣς",
    "дбвЙщ",
    "אבגםּ",
    "ابتةّ",
    "ঀঅআি",
    "कखगि्",
    "ทภาษ้",
    "中文字漢",
    "あいアイー",
    "한글가",
    "ქართ",
    "հայ",
    "ਪੰਜ",
    "ગુજ",
    "தமி",
    "తెల",
    "ಕನ್",
    "മലയ",
    "සිං",
    "မြန",
    "ខ្ម",
    "ລາວ",
    "አማር",
    "བོད",
    "ᠠᠡᠨ",
    "ⴰⴱ",
    "ᐃᓄ",
    "ᏣᎳ",
    "ܐܒܓ",
    "ދިވެ",
    "0123456789",
    "٠١٢٣",
    "०१२",
    "๐๑๒",
    "１２",
    "!?.,;:-'\"()[]{}<>/\\@#$%^&*_+=|~`",
    "‘’“”«»‹›„‚–—…·•",
    "😀🐶❤☺👍🏽🇩",
    "½¼¾⅓⅛²³¹₂①Ⅳ",
    "$€£¥¢₹",
]
# Whole blocks: Latin, phonetic letters, marks, Greek, Cyrillic, Georgian; scripts of Asia, Hebrew's points, Arabic's;
# signs; compatibility forms; mathematical letters and scripts beyond the basic plane.
BLOCKS = (
    "a1-17f 180-24f 250-2ff 300-36f 370-3ff 400-52f 531-58f 591-5f4 600-6ff 900-97f b82-bfa e01-e5b f00-fbc 1000-109f "
    "10a0-10ff 1200-12ff 13a0-13ff 1780-17f9 1800-18aa 1d00-1dbf 1e00-1fff 2010-2027 2030-205e 2070-209c 20a0-20bf "
    "2100-214f 2150-218b 2190-21ff 2200-22ff 2460-24ff 2500-25ff 2600-27bf 2c60-2c7f 3000-303f 3040-30ff 3105-312f "
    "3130-318e 3300-33ff 3400-3440 4e00-4e80 a000-a0c6 a4d0-a4ff a640-a69f a720-a7af ac00-ac80 f900-fa2d fb00-fdff "
    "fe70-feff ff01-ffee 10300-1031f 10330-1034a 1d400-1d7ff 1f300-1f64f"
)
for block in BLOCKS.split():
    first, last = (int(end, 16) for end in block.split("-"))
    SCRIPTS.append("".join(map(chr, range(first, last + 1))))
ENDINGS = ["'s", ".", ",", "!", "?", "'", '"', ")", "...", "n't", "'ll"]
SENTENCES = [
    "A man in a blue shirt is standing on a ladder cleaning a window.",
    "Two dogs run through the tall grass; one has a red ball in its mouth!",
    "Ein Kind fährt mit dem Fahrrad über die Straße.",
    "Une femme s'assoit près de l'eau avec son chien.",
    "¿Cuántos gatos hay en la mesa?",
    "Кошка спит на диване у окна.",
    "一只猫坐在桌子上。",
    "猫が窓のそばで寝ています。",
    "कुत्ता मैदान में दौड़ रहा है।",
    "رجل يقرأ كتابا في الحديقة.",
    "Paka wawili wamelala juu ya kitanda.",
    "แมวสองตัวนอนอยู่บนเตียง",
]


def real_rows(bench: Path) -> list[str]:
    """Captions and questions of the benchmark files."""
    texts = [json.loads(line)["text"] for line in (bench / "_gold/ptb_tokenizer.jsonl").open(encoding="utf-8")]
    data = bench / "e-bug__iglue/datasets"
    lines = [
        *((path, "sentence2") for path in sorted(data.glob("XVNLI/annotations/*/test.jsonl"))),
        *((path, "caption") for path in sorted(data.glob("marvl/zero_shot/annotations/*.jsonl"))),
    ]
    for path, field in lines:
        texts += [json.loads(line)[field] for line in path.open(encoding="utf-8")]
    for path in sorted(data.glob("xFlickrCO/annotations/*/test.jsonl")):
        texts += [json.loads(line)["sentences"][0] for line in path.open(encoding="utf-8")]
    for path in sorted(data.glob("xGQA/annotations/few_shot/*/train_5.json")):
        texts += [row["question"] for row in json.loads(path.read_text(encoding="utf-8")).values()]
    return [one_line(text) for text in dict.fromkeys(texts)]


def one_line(text: str) -> str:
    """A text without what Java takes for the end of a line."""
    return re.sub("[\n\r\v\f\x85\u2028\u2029]", " ", text)


def mutate(text: str, rng: random.Random) -> str:
    """Change a text in one to four places."""
    for _ in range(rng.randint(1, 4)):
        kind, place, words = rng.random(), rng.randint(0, len(text)), text.split(" ")
        if kind < 0.35:
            text = text[:place] + rng.choice(PIECES) + text[place:]
        elif kind < 0.55:
            words.insert(rng.randint(0, len(words)), rng.choice(PIECES))
            text = " ".join(words)
        elif kind < 0.65:
            text = text[:place] + rng.choice(rng.choice(SCRIPTS)) + text[place:]
        elif kind < 0.75:
            text = text[:place] + text[place + rng.randint(1, 3) :]
        elif kind < 0.82:
            text = text[:place] + text[place:].swapcase()
        elif kind < 0.9:
            rng.shuffle(words)
            text = " ".join(words)
        else:
            at = rng.randrange(len(words))
            words[at] += rng.choice([*ENDINGS, f"-{rng.choice(words)}", f"/{rng.choice(words)}"])
            text = " ".join(words)
    return text


def invent(rng: random.Random) -> str:
    """A string of pieces, words in many scripts, or signs."""
    if rng.random() < 0.2:
        return "".join(rng.choice("aZé1٣-_./'!&+@#, :;()\"<>=*$%日\u0301") for _ in range(rng.randint(2, 14)))
    text = ""
    for _ in range(rng.randint(1, 8)):
        script = rng.choice(SCRIPTS)
        word = "".join(
            rng.choice(script if rng.random() < 0.9 else rng.choice(SCRIPTS)) for _ in range(rng.randint(1, 6))
        )
        text += (rng.choice(PIECES) if rng.random() < 0.5 else word) + (" " if rng.random() < 0.6 else "")
    return text


def strings(count: int, rows: list[str], seed: int = 0) -> Iterator[str]:
    """Strings to compare, two thirds of them mutations of rows."""
    rng = random.Random(seed)
    for _ in range(count):
        yield one_line(mutate(rng.choice(rows), rng) if rng.random() < 2 / 3 else invent(rng))


def java_tokens(texts: list[str], java: str = "java") -> list[str]:
    """What pycocoevalcap's PTBTokenizer gives for each text, standing alone: one run of its jar."""
    import pycocoevalcap.tokenizer.ptbtokenizer as reference

    jar = Path(reference.__file__).with_name(reference.STANFORD_CORENLP_3_4_1_JAR)
    command = [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("".join(f"{text}\n{SEPARATOR}\n" for text in texts), encoding="utf-8")
        run = subprocess.run(
            [*command, "-preserveLines", "-lowerCase", str(file)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    lines = run.stdout.decode("utf-8").split("\n")
    if lines[1::2] != [SEPARATOR] * len(texts):
        raise RuntimeError("the jar's lines do not fit the texts")
    return [" ".join(token for token in line.rstrip().split(" ") if token not in DROPPED) for line in lines[:-1:2]]


def main() -> None:
    from mblip.evaluation.metrics.ptb_tokenizer import tokenize

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bench", type=Path, help="folder of real benchmark files; without it, twelve own sentences")
    options = parser.parse_args()
    rows = real_rows(options.bench) if options.bench else SENTENCES
    texts = list(strings(options.strings, rows, options.seed))
    differing = [(t, a, b) for t, a, b in zip(texts, java_tokens(texts), map(tokenize, texts), strict=True) if a != b]
    same = len(texts) - len(differing)
    print(f"{same:,} of {len(texts):,} strings equal ({100 * same / len(texts):.4f} %), from {len(rows):,} rows")
    for text, theirs, ours in differing:
        print(f"  {text!r}\n    Java {theirs!r}\n    ours {ours!r}")


if __name__ == "__main__":
    main()
