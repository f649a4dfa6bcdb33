"""A page to try a model on: drop a picture, pick languages by their own names, ask."""

from __future__ import annotations

import asyncio
import html
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

# Before gradio is imported: the page tells nobody that it is used, and works without a network.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from mblip.errors import InputError
from mblip.inference.detecting import language_of
from mblip.inference.predictor import Predictor
from mblip.inference.server.batching import Busy
from mblip.inference.server.pictures import Pictures
from mblip.languages import LANGUAGES, Language
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

_OWN = ""  # in the list of languages: that of the question
_EXAMPLES = 4
_CSS = """
.answers {display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem}
.answers article {border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .75rem 1rem; min-width: 0}
.answers h3 {margin: 0 0 .25rem; font-size: .85rem; opacity: .75}
.answers p {margin: 0; font-size: 1.15rem; line-height: 1.6; overflow-wrap: anywhere}
"""


def mount_demo(app: FastAPI, model: Predictor, name: str, max_bytes: int) -> FastAPI:
    """Put the page at the root of a server, whose batches it shares.

    Args:
        app: The server's application.
        model: Answers.
        name: What the page calls it.
        max_bytes: Of a picture.
    """
    blocks = _build(app, model, name)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    mounted: FastAPI = gr.mount_gradio_app(
        app, blocks, path="/", theme=theme, css=_CSS, ssr_mode=False, max_file_size=max_bytes, show_error=True,
        footer_links=[],
    )  # fmt: skip
    return mounted


def _build(app: FastAPI, model: Predictor, name: str) -> Any:
    choices = [(f"{language.own_name} · {language.name}", language.code) for language in LANGUAGES.values()]

    async def generate(picture: str | None, prompts: Sequence[str], settings: Sequence[float]) -> list[str]:
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        pictures: Pictures = app.state.pictures
        try:
            opened = [await pictures.decode(await asyncio.to_thread(Path(picture).read_bytes))]
            generation = _generation(*settings)
            asked = (app.state.batcher.answer(prompt, opened, generation, 1, None) for prompt in prompts)
            return [answer.text for (answer,) in await asyncio.gather(*asked)]
        except (InputError, Busy) as error:
            raise _shown(error) from error

    async def caption(picture: str | None, codes: list[str], *settings: float) -> str:
        if not codes:
            raise gr.Error("Pick at least one language.", print_exception=False)
        languages = [LANGUAGES[code] for code in codes]
        texts = await generate(picture, [model.prompts.for_caption(language.name) for language in languages], settings)
        return _cards(list(zip(languages, texts, strict=True)))

    async def ask(picture: str | None, question: str, code: str, *settings: float) -> str:
        if not question.strip():
            raise gr.Error("Write a question first.", print_exception=False)
        try:
            language = LANGUAGES[code or await asyncio.to_thread(language_of, question)]
        except InputError as error:
            raise _shown(error) from error
        (text,) = await generate(picture, [model.prompts.for_question(question, language.name)], settings)
        return _cards([(language, text)])

    with gr.Blocks(title="mblip", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(f"# mblip\nCaptions and answers by `{html.escape(name)}`.")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="Picture", sources=["upload", "clipboard"], type="filepath", height=320)
                # The file as it is: we, not gradio, say what is wrong with it. (A subclass would write a .pyi beside us.)
                picture.preprocess = lambda upload: upload and upload.path
                gr.Examples(_examples(), picture, label="Examples", elem_id="examples")
            with gr.Column():
                languages = gr.Dropdown(
                    choices, value=["sw", "ar", "ja"], multiselect=True, label="Caption in",
                    info="A model speaks those of these languages that it was trained on.",
                )  # fmt: skip
                caption_button = gr.Button("Caption", variant="primary")
                captions = gr.HTML(elem_id="captions")
                question = gr.Textbox(label="Question", placeholder="What is on the table?", max_length=2000)
                own = ("the question's own language", _OWN)
                answer_language = gr.Dropdown([own, *choices], value=_OWN, label="Answer in")
                ask_button = gr.Button("Ask")
                answer = gr.HTML(elem_id="answer")
                with gr.Accordion("Settings", open=False):
                    settings = [
                        gr.Slider(1, 10, 5, step=1, label="Beams"),
                        gr.Slider(0, 2, 0, step=0.1, label="Temperature", info="above 0: sampled, without beams"),
                        gr.Slider(1, 5, 1.5, step=0.1, label="Repetition penalty"),
                        gr.Slider(1, 200, 50, step=1, label="Longest answer, in tokens"),
                    ]
        # What was said of one picture does not stay beside another.
        picture.change(None, None, [captions, answer], js="() => ['', '']")
        caption_button.click(caption, [picture, languages, *settings], captions, api_name="caption")
        gr.on(
            [ask_button.click, question.submit], ask, [picture, question, answer_language, *settings], answer,
            api_name="ask",
        )  # fmt: skip
    return blocks


def _generation(beams: float, temperature: float, penalty: float, tokens: float) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_beams": int(beams), "repetition_penalty": float(penalty), "max_new_tokens": int(tokens)
    }  # fmt: skip
    if temperature > 0:
        settings |= {"num_beams": 1, "do_sample": True, "temperature": float(temperature), "top_k": 0}
    return settings


def _cards(answers: Sequence[tuple[Language, str]]) -> str:
    cards = [
        f'<article lang="{language.bcp47}" dir="{language.direction}"><h3>{html.escape(language.own_name)}</h3>'
        f"<p>{html.escape(text) or '–'}</p></article>"
        for language, text in answers
    ]
    return f'<div class="answers">{"".join(cards)}</div>'


def _shown(error: Exception) -> Any:
    text = str(error)
    return gr.Error(html.escape(text[:1].upper() + text[1:] + "."), print_exception=False)


def _examples() -> list[str]:
    """Emoji scenes, drawn here: they need no network, and the nano models know them."""
    folder = Path(tempfile.mkdtemp(prefix="mblip-demo-"))
    concepts = sorted(load_lexicon().emoji)
    paths = []
    for number in range(_EXAMPLES):
        scene = sample_scene(np.random.default_rng(number), 1 + number % 2, concepts)
        paths.append(str(folder / f"scene-{number + 1}.png"))
        render(scene, 256).save(paths[-1])
    return paths
