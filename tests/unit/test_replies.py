"""Replies of chat models: what surrounds an answer goes, what is none is told, and an ordinary text stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mblip.replies import Reply, read_completion, translation_in, without_reasoning
from mblip.storage import read_jsonl

SOURCE, SPANISH = "A dog runs on the beach.", "Un perro corre por la playa."
CAPTIONS = Path(__file__).parent / "data" / "captions.jsonl"

REASONED = [
    "<think>\n\n</think>\n\n{}",
    "<think>The user wants a translation. \"Dog\" is...</think>{}",
    "<thinking>hm</thinking>\n{}",
    "<Reasoning>\nIt asks...\n</Reasoning>\n\n{}",
    "<thought>a</thought>{}",
    "Okay, so I need to look.\n</think>\n\n{}",  # opened in the prompt
    "<think>I should close with </think>? No.</think>{}",
    "<think>I should use a <think> tag</think>{}",
    "<think>a</think>\n<think>b</think>\n{}",
    "<think>a</think>{}</think>",
    "<think>a</think>{}<think>Let me check.</think>",
    "{}\n<think>Was that",
    "◁think▷Let me see.◁/think▷{}",
    "[THINK]Let me see.[/THINK]{}",
    "<|channel|>analysis<|message|>User asks.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "analysis<|message|>User asks.<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "analysisUser asks. We answer.assistantfinal{}",
    "<|channel>thought\nLet me see.<channel|>{}<turn|>",
    "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<seed:think>a</seed:think>{}",
    "<unused94>thought\nLet me see.<unused95>{}",
    "<think>a</think>\n<answer>{}</answer>",
    "<SUMMARY>I will.</SUMMARY><REASONING>a</REASONING><CONCLUSION>{}</CONCLUSION>",
    "Here is my thought process:\nHm.\n\nHere is my response:\n{}",
]  # fmt: skip
ENDED = [
    "{}<|im_end|>", "{}</s>", "{}<|eot_id|>", "{}<end_of_turn>\n", "{}<|endoftext|>", "{}<|end|>",
    "{}<｜end▁of▁sentence｜>",
    "{}<|END_OF_TURN_TOKEN|>", "{}<eos><eos>", "<s>{}</s>", "<|im_start|>assistant\n{}<|im_end|>", "<bos>{}",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>", "{}<|im_end|>\n<|im_start|>user\nAnd this?<|im_end|>",
    "<start_of_turn>model\n{}<end_of_turn>", " {}\n", "[/INST] {} </s>", "</s>{}",
]  # fmt: skip


@pytest.mark.parametrize("reply", REASONED + ENDED)
@pytest.mark.parametrize("answer", ["yes", "no", SPANISH, "犬が走る。", "B", "2.5", "Zwei\nZeilen"])
def test_reasoning_and_tokens_come_off(reply: str, answer: str) -> None:
    assert without_reasoning(reply.format(answer)) == answer
    assert without_reasoning(answer) == answer


@pytest.mark.parametrize("reply", [
    "<think>The user wants", "<think>", "<thinking>Let me see.</thinking>", "The user wants that.</think>\n",
    "◁think▷Let me",
    "<|channel|>analysis<|message|>User asks", "<|channel|>analysis", "analysisThe user asks for a", "[THINK]so",
    "<|channel|>analysis<|message|>User asks.<|end|>", "<think>a</think><|im_end|>",
])  # fmt: skip
def test_a_reply_that_only_reasons_is_no_answer(reply: str) -> None:
    assert without_reasoning(reply) is None
    assert translation_in(Reply(reply, "stop"), SOURCE, "es") == ("", "only reasoning")
    assert translation_in(Reply(reply, "length"), SOURCE, "es") == ("", "cut off")


@pytest.mark.parametrize("reply", ["", "  \n", "<|im_end|>", "</s>"])
def test_an_empty_reply_is_an_empty_text(reply: str) -> None:
    assert without_reasoning(reply) == ""
    assert translation_in(Reply(reply), SOURCE, "es") == ("", "")


@pytest.mark.parametrize("text", [
    "a < b and b > c", "I think so", "thinking", "<p>Hi</p>", "The <s>old</s> new price", "analysis of the picture",
    "Here is my answer: yes", "**yes**", '"no"', "x </b> y", "<|object_ref_start|>a dog<|object_ref_end|>", "[1, 2]",
    "Note: it is red.", "finally", "<image>", "final<answer", "No.\n\nLet me know if you need more.", "{language}",
])  # fmt: skip
def test_evaluation_takes_nothing_else_off(text: str) -> None:
    assert without_reasoning(text) == text


SURROUNDED = [
    "Here is the translation:\n\n{}", "Here's the Spanish translation:\n{}", "Sure! Here is the translation: {}",
    "Certainly! The translation is:\n\n{}", "Of course. Here you go:\n{}", "Translation: {}", "**Translation:** {}",
    "**Translation**: {}", "### Translation\n\n{}", "Translation (Spanish): {}", "Spanish translation:\n{}", "Spanish: {}",
    "In Spanish: {}", "Español: {}", "Traducción: {}", "Aquí está la traducción:\n\n{}", "La traducción al español es: {}",
    "The text in Spanish would be translated as: {}", "Sure!\n\n{}", "Sure, here it is:\n\n{}", "Output: {}", "Answer: {}",
    "Translated text: {}", "Okay, here's the translation of the text into Spanish:\n\n**{}**", "Sure! {}",
    "The translation of \"A dog runs on the beach.\" into Spanish is: \"{}\"", "A dog runs on the beach.\n\n{}",
    "\"A dog runs on the beach.\" in Spanish is \"{}\"", "A dog runs on the beach. -> {}",
    "English: A dog runs on the beach.\nSpanish: {}",
    "{}\n\n(Note: \"playa\" is a beach.)", "{} (Note: \"playa\" is a beach.)", "{}\n\nNote: I kept the tense.",
    "{}\n\n**Note:** I kept it.\n\nAnd more.", "{}\n\nLet me know if you need anything else!",
    "{} Let me know if you'd like changes.",
    "{}\n\nI hope this helps!", "{}\n\n---\n\n*Note: informal.*", "{}\n\nNota: se usa \"playa\".",
    "{}\n\nLiteral translation: A dog runs.",
    "{}\n\nExplanation:\n- perro: dog\n- playa: beach", "{} (A dog runs on the beach.)", "{}\n\n(Literally: \"A dog...\")",
    "{}\n\nThis translation keeps the meaning of the text.", "{}\n\n[Note: informal]", "{}\n\nAlternatively: Un can corre.",
    "\"{}\"", "“{}”", "«{}»", "„{}“", "'{}'", "「{}」", "`{}`", "**{}**", "*{}*", "__{}__", "_{}_", "***{}***",
    "\"**{}**\"",
    "```\n{}\n```", "```text\n{}\n```", "~~~\n{}\n~~~", "<translation>{}</translation>", "{{\"translation\": \"{}\"}}",
    "```json\n{{\"es\": \"{}\"}}\n```", "> {}",
    "Sure! Here's the translation:\n\n```\n{}\n```\n\nLet me know if you need more.",
    "<think>hm</think>Here is the translation:\n\n\"{}\"\n\n(Note: fine.)<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("reply", SURROUNDED)
def test_what_surrounds_a_translation_comes_off(reply: str) -> None:
    assert translation_in(Reply(reply.format(SPANISH), "stop"), SOURCE, "es") == (SPANISH, "")


@pytest.mark.parametrize(("language", "reply", "text"), [
    ("id", "Berikut terjemahannya:\n\nSeekor anjing berlari.", "Seekor anjing berlari."),
    ("de", "Hier ist die Übersetzung: Ein Hund rennt.", "Ein Hund rennt."),
    ("fr", "Voici la traduction :\n\n« Un chien court. »", "Un chien court."),
    ("zh", "以下是翻译：\n一只狗在沙滩上跑。", "一只狗在沙滩上跑。"),
    ("zh", "翻译：一只狗在沙滩上跑。\n\n注：这是简体中文。", "一只狗在沙滩上跑。"),
    ("ja", "翻訳：「犬がビーチを走る。」", "犬がビーチを走る。"),
    ("hi", "अनुवाद: एक कुत्ता दौड़ता है।\n\n(Ek kutta daudta hai.)", "एक कुत्ता दौड़ता है।"),
    ("ru", "Перевод: «Собака бежит по пляжу».", "Собака бежит по пляжу."),
    ("sw", "Tafsiri: Mbwa anakimbia.", "Mbwa anakimbia."),
    ("ar", "الترجمة: كلب يجري على الشاطئ.", "كلب يجري على الشاطئ."),
    ("ko", "번역: \"개가 해변을 달린다.\"", "개가 해변을 달린다."),
    ("vi", "Bản dịch: Một con chó chạy.\n\nGhi chú: không có.", "Một con chó chạy."),
    ("sw", "Kiswahili: Mbwa anakimbia.", "Mbwa anakimbia."),
])  # fmt: skip
def test_in_words_of_the_language(language: str, reply: str, text: str) -> None:
    assert translation_in(Reply(reply), SOURCE, language) == (text, "")


@pytest.mark.parametrize("reply", [
    "I'm sorry, but I can't help with that.", "I’m sorry, but I can’t assist.", "I cannot translate this text.",
    "Sorry, I can't do that.",
    "As an AI language model, I don't translate such texts.", "I apologize, but this is inappropriate.",
    "I am unable to help.",
    "Unfortunately, I cannot.", "Lo siento, pero no puedo ayudar con eso.", "Please provide the text you want translated.",
    "**I'm sorry**, but no.", "<think>Not allowed.</think>I'm sorry, I can't.", "I won't translate that.",
    "It seems that no text was given.", "Sure! Please provide the text.",
])  # fmt: skip
def test_refusals(reply: str) -> None:
    assert translation_in(Reply(reply, "stop"), SOURCE, "es")[1] == "refused"


@pytest.mark.parametrize(("language", "reply"), [
    ("id", "Maaf, saya tidak dapat membantu."), ("de", "Es tut mir leid, aber ich kann dabei nicht helfen."),
    ("fr", "Je suis désolé, mais je ne peux pas."), ("zh", "抱歉，我无法翻译。"),
    ("ja", "申し訳ありませんが、お手伝いできません。"),
    ("ko", "죄송하지만 도와드릴 수 없습니다."), ("ru", "Извините, но я не могу помочь."),
    ("sw", "Samahani, siwezi kusaidia."),
    ("pt", "Desculpe, mas não posso ajudar."), ("hi", "क्षमा करें, मैं मदद नहीं कर सकता।"), ("ar", "عذرًا، لا أستطيع المساعدة."),
])  # fmt: skip
def test_refusals_in_other_languages(language: str, reply: str) -> None:
    assert translation_in(Reply(reply), SOURCE, language)[1] == "refused"
    said = "He says: I'm sorry, but I can't help you."
    assert translation_in(Reply(reply), said, language)[1] == ""


@pytest.mark.parametrize("field", [
    Reply(None, "content_filter"), Reply("Un perro", "content_filter"), Reply(None, "stop", "I can't help."),
    Reply("", "SAFETY"), Reply("", "", "No."),
])  # fmt: skip
def test_refusals_by_field(field: Reply) -> None:
    assert translation_in(field, SOURCE, "es")[1] == "refused"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_reply_that_was_cut_off(finish: str) -> None:
    assert translation_in(Reply("Un perro corre por", finish), SOURCE, "es") == ("Un perro corre por", "cut off")


@pytest.mark.parametrize(("source", "reply"), [
    ("A bird sits on a branch.", "A bird sits on a twig."), ("A bird sits on a branch.", "A bird sits on a branch."),
    (SOURCE, "The dog is running along the shore."), (SOURCE, "There is a dog running by the sea"),
    ("Two men in hats talk.", "Two guys wearing hats are having a conversation."), ("A cat.", "The cat."),
    ("A child eats an apple.", "A kid is having an apple for a snack"),
    ("A clean kitchen.", "Here is the translation:\n\nA very clean kitchen."),
])  # fmt: skip
@pytest.mark.parametrize("language", ["id", "es", "sw", "de"])
def test_answers_in_english(source: str, reply: str, language: str) -> None:
    assert translation_in(Reply(reply), source, language)[1] == "source language"


def test_english_may_be_wanted() -> None:
    assert translation_in(Reply("A bird sits on a twig."), "Ein Vogel sitzt auf einem Zweig.", "en")[1] == ""
    assert translation_in(Reply("I'm sorry"), "Es tut mir leid", "en") == ("I'm sorry", "")


@pytest.mark.parametrize(("source", "reply", "language"), [
    ("\"Stop\" says the sign", "«Alto» dice el letrero", "es"), ("\"A red stop sign\"", "\"Una señal roja\"", "es"),
    ("Note: the dog is wet.", "Nota: el perro está mojado.", "es"),
    ("Translation: the art of words", "Traducción: el arte", "es"),
    ("Sure! A dog runs.", "Sure! Un perro corre.", "es"), ("**Menu** of the day", "**Menú** del día", "es"),
    ("Two signs: \"A\" and \"B\"", "\"A\" y \"B\"", "es"), ("The answer: blue", "Respuesta: azul", "es"),
    ("*One* or *two*", "*Uno* o *dos*", "es"), ("The clock shows 5:30.", "El reloj marca las 5:30.", "es"),
    ("He said: I'm sorry, but I can't help.", "Dijo: lo siento, pero no puedo ayudar.", "es"),
    ("'s-Gravenhage at night", "'s-Gravenhage de noche", "es"),
    ("New York City", "New York City", "de"), ("Manchester United", "Manchester United", "id"), ("Pizza", "Pizza", "de"),
    ("A man in a bar in Berlin", "Ein Mann in einer Bar in Berlin", "de"), ("Man in a red bus", "Man in 'n rooi bus", "af"),
    ("A cat (black) sleeps.", "Un gato (negro) duerme.", "es"),
    ("A dog.\n\nNote: it is wet.", "Un perro.\n\nNota: está mojado.", "es"),
    ("<think>", "<think>", "es"), ("The token <|im_end|> ends it", "El token <|im_end|> lo termina", "es"),
    ("A menu in Spanish: tacos", "Menú en español: tacos", "es"), ("Dogs\n---\nCats", "Perros\n---\nGatos", "es"),
    ("`x` is a name", "`x` es un nombre", "es"), ("Text: hello", "Texto: hola", "es"),
    ("{\"a\": \"b\"}", "{\"a\": \"b\"}", "es"),
])  # fmt: skip
def test_what_the_source_has_stays(source: str, reply: str, language: str) -> None:
    assert translation_in(Reply(reply, "stop"), source, language) == (reply, "")


def test_ordinary_captions_stay_as_they_are() -> None:
    rows = list(read_jsonl(CAPTIONS))
    assert len({row["language"] for row in rows}) >= 40
    for row in rows:
        assert translation_in(Reply(row["text"], "stop"), row["english"], row["language"]) == (row["text"], ""), row
        assert without_reasoning(row["text"]) == row["text"]
        assert without_reasoning(row["english"]) == row["english"]
        assert translation_in(Reply(row["english"]), row["text"], "en") == (row["english"], "")
        if row["language"] != "en":
            assert translation_in(Reply(row["english"]), row["english"], row["language"])[1] == "source language", row


def test_real_captions_stay_as_they_are(bench: Path) -> None:
    folder = bench / "e-bug__iglue/datasets"
    checked, moved = 0, []
    for name, fields in (("xFlickrCO", ("sentences",)), ("XVNLI", ("sentence1", "sentence2"))):
        english = list(read_jsonl(folder / name / "annotations/en/test.jsonl"))
        for path in sorted((folder / name / "annotations").glob("*/test.jsonl")):
            for row, original in zip(read_jsonl(path), english, strict=True):
                for field in fields:
                    text, source = (x[field][0] if field == "sentences" else x[field] for x in (row, original))
                    checked += 1
                    assert without_reasoning(text) == text.strip()
                    if translation_in(Reply(text, "stop"), source, path.parent.name) != (text.strip(), ""):
                        moved.append((path.parent.name, text))
    for row in read_jsonl(folder / "marvl/zero_shot/annotations/marvl-sw.jsonl"):
        assert translation_in(Reply(row["caption"]), SOURCE, "sw") == (row["caption"].strip(), "")
    assert checked > 10_000
    assert len(moved) <= 1, moved  # xFlickrCO's German has a caption in English


@pytest.mark.parametrize(("message", "reply"), [
    ({"content": "a"}, Reply("a", "stop")), ({"content": None}, Reply(None, "stop")),
    ({"content": None, "refusal": "No."}, Reply(None, "stop", "No.")), ({"refusal": "No."}, Reply("No.", "stop", "No.")),
    ({"content": "a", "reasoning_content": "hm"}, Reply("a", "stop")),
    ({"content": "", "reasoning": "hm"}, Reply("", "stop")),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]},
    Reply("a", "stop")),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Reply("ab", "stop")),
    ({"content": []}, Reply("", "stop")),
])  # fmt: skip
def test_completions(message: dict[str, object], reply: Reply) -> None:
    assert read_completion({"choices": [{"message": message, "finish_reason": "stop"}]}) == reply


@pytest.mark.parametrize("body", [
    {}, [], None, "x", 1, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": None}]},
    {"choices": {"message": {"content": "a"}}},
    {"choices": [{"message": {}}]}, {"choices": [{"message": {"content": 1}}]}, {"choices": ["a"]},
    {"choices": [{"message": "a"}]},
])  # fmt: skip
def test_what_is_no_completion(body: object) -> None:
    with pytest.raises(ValueError, match=r"not a chat completion|is not a text"):
        read_completion(body)


@pytest.mark.parametrize("text", [
    "<think>" * 50_000, "</think>" * 50_000, "(" * 100_000, "\n" * 100_000, "*" * 100_000, ": " * 50_000, "<s>" * 30_000,
    "Note:\n" * 20_000, "a" * 200_000, "\"" * 100_000, "{\"a\":" * 50_000 + "}", "<answer>" * 20_000, "Sure! " * 20_000,
    "</s>" * 20_000,
    json.dumps("<|im_start|>" * 20_000), "word " * 40_000 + "(", "\n(" * 30_000, "analysis " * 20_000,
])  # fmt: skip
def test_hostile_replies_take_no_time(text: str) -> None:
    import time

    started = time.process_time()
    without_reasoning(text)
    translation_in(Reply(text, "stop"), SOURCE, "hi")
    assert time.process_time() - started < 5
