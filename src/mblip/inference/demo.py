"""A page to try a model on: drop a picture, pick languages by their own names, ask."""

from __future__ import annotations

import asyncio
import atexit
import html
import io
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

# Set before gradio is imported: the page reports no usage, and works without a network.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from PIL import Image

from mblip import plugins
from mblip.errors import InputError, MblipError, check_readable
from mblip.inference.demo_gate import Function, Gate, number, one_of, some_of, text, upload
from mblip.inference.demo_sessions import STATES, Sessions
from mblip.inference.language_id import language_of
from mblip.inference.notices import Notice, notice_for
from mblip.inference.predictor import Predictor
from mblip.inference.server.pictures import RequestPictures
from mblip.inference.server.schema import MAX_CHARACTERS
from mblip.inference.trained_languages import describe_languages, warn_of_languages
from mblip.inference.uploads import Uploads
from mblip.languages import LANGUAGES, Language
from mblip.models.generation import Answer
from mblip.storage.decoding import EXTENSIONS

_FIRST = ("sw", "ar", "ja")  # the languages that are picked when the page opens
_OWN = ""  # the choice of the question's own language
_CSS = """
.answers {display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem}
.answers article {border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .75rem 1rem; min-width: 0}
.answers h3 {margin: 0 0 .25rem; font-size: .85rem; opacity: .75}
.notice {margin: 0 0 .75rem; padding: .5rem .75rem; border-left: 3px solid var(--color-accent)}
.answers p {margin: 0; font-size: 1.15rem; line-height: 1.6; overflow-wrap: anywhere}
"""
# The page takes files of a type that begins with image/, but browsers give some pictures none, such as IMG_1.HEIC of a phone.
_TYPES_JS = """
() => {
  const endings = ENDINGS;
  const typed = (file) => {
    const ending = file.name.toLowerCase().match(/[.][^.]*$/)?.[0];
    return file.type || !endings.includes(ending) ? file : new File([file], file.name, {type: "image/" + ending.slice(1)});
  };
  const retyped = (files) => {
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(typed(file));
    return transfer;
  };
  window.addEventListener("change", ({target}) => {
    if (target.type === "file") target.files = retyped(target.files).files;
  }, true);
  window.addEventListener("drop", (event) => {
    if (event.dataTransfer?.files.length)
      Object.defineProperty(event, "dataTransfer", {value: retyped(event.dataTransfer.files)});
  }, true);
}
""".replace("ENDINGS", json.dumps(EXTENSIONS))


def mount_demo(app: FastAPI, model: Predictor, name: str, max_bytes: int, examples: Sequence[Path] = ()) -> FastAPI:
    """Put the page at the root of a server, whose batches it shares.

    Uploads are kept in a folder that only this user can read; it is removed when the server ends.

    Args:
        app: The server's application.
        model: The model that answers.
        name: Name of the model on the page.
        max_bytes: Largest size of a picture in bytes.
        examples: Pictures that the page offers; without any, those that plug-ins draw and the model knows.

    Raises:
        InputError: An example cannot be read.
    """
    folder = Path(tempfile.mkdtemp(prefix="mblip-demo-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio reads it whenever it stores a file
    uploads = Uploads(folder, max_bytes)
    notice = notice_for(model.vlm)
    shown = _copies(examples, folder) if examples else _known(notice, folder)
    blocks, functions = _build(app, model, name, uploads, shown, notice)
    uploads.keep_own()
    blocks.queue(default_concurrency_limit=None)  # the batcher's queue has the limit and reports when it is full
    # Gradio checks paths only once it is launched, which a mounted page never is. This turns the check on as a second
    # lock.
    blocks.has_launched = True
    blocks.state_session_capacity = STATES
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        page, blocks, path="/", theme=theme, css=_CSS, js=_TYPES_JS, ssr_mode=False, max_file_size=max_bytes, show_error=True,
        footer_links=[], run_history=False, mcp_server=False,
    )  # fmt: skip
    before = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[Any]:
        async with before(app) as state, page.router.lifespan_context(page):
            try:
                await _warm_up(app, model)
                yield state
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    app.router.lifespan_context = lifespan
    app.mount("/", Gate(page, uploads, functions, Sessions(blocks._queue), app.state.pictures.preview))
    return app


async def _warm_up(app: FastAPI, model: Predictor) -> None:
    """Caption a grey picture as the page would, so that the first visitor does not wait for what is done only once."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    opened = await app.state.pictures.decode(picture.getvalue())
    prompt = model.prompts.for_caption(LANGUAGES[_FIRST[0]].name)
    await app.state.batcher.answer(prompt, [opened], _generation(5, 0, 1.5, 4), 1, None)


def _build(
    app: FastAPI, model: Predictor, name: str, uploads: Uploads, examples: list[str], notice: Notice | None
) -> tuple[Any, dict[str, Function]]:
    choices = [(f"{language.own_name} · {language.name}", language.code) for language in LANGUAGES.values()]

    async def generate(
        picture: str | None, prompts: Sequence[str], settings: Sequence[float]
    ) -> tuple[list[str], str | None]:
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        pictures: RequestPictures = app.state.pictures
        asked: list[asyncio.Future[list[Answer]]] = []
        try:
            for prompt in prompts:
                model.count_tokens(prompt)
            opened = await pictures.decode(await asyncio.to_thread(Path(picture).read_bytes))
            generation, batcher = _generation(*settings), app.state.batcher
            asked += [
                asyncio.ensure_future(batcher.answer(prompt, [opened], generation, 1, None)) for prompt in prompts
            ]
            return [answer.text for (answer,) in await asyncio.gather(*asked)], notice(opened[1]) if notice else None
        except FileNotFoundError as error:  # an old upload, removed for newer ones
            raise gr.Error("The picture was removed: upload it again.", print_exception=False) from error
        except MblipError as error:
            raise _shown(error) from error
        finally:
            for one in asked:
                one.cancel()

    async def caption(picture: str | None, codes: list[str], *settings: float) -> str:
        if not codes:
            raise gr.Error("Pick at least one language.", print_exception=False)
        languages = [LANGUAGES[code] for code in codes]
        texts, notice = await generate(
            picture, [model.prompts.for_caption(language.name) for language in languages], settings
        )
        return _cards(
            list(zip(languages, texts, strict=True)), warn_of_languages(model.trained_languages, codes), notice
        )

    async def ask(picture: str | None, question: str, code: str, *settings: float) -> str:
        if not question.strip():
            raise gr.Error("Write a question first.", print_exception=False)
        try:
            language = LANGUAGES[code or await asyncio.to_thread(language_of, question)]
        except MblipError as error:
            raise _shown(error) from error
        (answer,), notice = await generate(picture, [model.prompts.for_question(question, language.name)], settings)
        asked = model.prompts.match(question)[1] or language
        return _cards([(language, answer)], warn_of_languages(model.trained_languages, [asked.code]), notice)

    with gr.Blocks(title="mblip", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(_introduction(name, model, notice, bool(examples)))
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="Picture", sources=["upload", "clipboard"], type="filepath", height=320)
                # Pass the file unchanged, so that our own message names its fault. (A subclass would write a .pyi
                # here.)
                picture.preprocess = lambda upload: upload and upload.path
                if examples:
                    gr.Examples(examples, picture, label="Or take one of these", elem_id="examples")
            with gr.Column():
                languages = gr.Dropdown(
                    choices, value=_picked(model), multiselect=True, label="Caption in",
                    info="A model knows only the languages that it was trained on.",
                )  # fmt: skip
                caption_button = gr.Button("Caption", variant="primary")
                captions = gr.HTML(elem_id="captions")
                asked_first = notice.question if notice else "What is on the table?"
                question = gr.Textbox(label="Question", placeholder=asked_first, max_length=2000)
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
        # Answers about one picture must not stay beside another.
        picture.change(None, None, [captions, answer], js="() => ['', '']")
        caption_button.click(caption, [picture, languages, *settings], captions, api_name="caption")
        gr.on(
            [ask_button.click, question.submit], ask, [picture, question, answer_language, *settings], answer,
            api_name="ask",
        )  # fmt: skip
    numbers = {function.api_name: place for place, function in blocks.fns.items()}
    settings_checks = {
        "beams": number(1, 10, whole=True), "temperature": number(0, 2), "repetition penalty": number(1, 5),
        "tokens": number(1, 200, whole=True),
    }  # fmt: skip
    shown = {"picture": upload(uploads)}
    asked = {"question": text(MAX_CHARACTERS), "language": one_of(_OWN, *LANGUAGES)}
    functions = {
        "caption": Function(numbers["caption"], shown | {"languages": some_of(*LANGUAGES)} | settings_checks),
        "ask": Function(numbers["ask"], shown | asked | settings_checks),
    }
    if examples:
        example = {"example": number(0, len(examples) - 1, whole=True)}
        functions["load_example"] = Function(numbers["load_example"], example, queued=False)
    return blocks, functions


def _picked(model: Predictor) -> list[str]:
    """The languages that are picked when the page opens: only those that the model was trained to write, if it says."""
    trained = model.trained_languages or LANGUAGES
    return [code for code in _FIRST if code in trained] or [code for code in LANGUAGES if code in trained][
        : len(_FIRST)
    ]


def _generation(beams: float, temperature: float, penalty: float, tokens: float) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_beams": int(beams), "repetition_penalty": float(penalty), "max_new_tokens": int(tokens)
    }  # fmt: skip
    if temperature > 0:
        settings |= {"num_beams": 1, "do_sample": True, "temperature": max(float(temperature), 0.01), "top_k": 0}
    return settings


def _cards(answers: Sequence[tuple[Language, str]], *notices: str | None) -> str:
    cards = [
        f'<article lang="{language.bcp47}" dir="{language.direction}"><h3>{html.escape(language.own_name)}</h3>'
        f"<p>{html.escape(text) or '–'}</p></article>"
        for language, text in answers
    ]
    lines = [
        f'<p class="notice" role="status">{html.escape(notice[:1].upper() + notice[1:])}.</p>'
        for notice in notices
        if notice
    ]
    return f'{"".join(lines)}<div class="answers">{"".join(cards)}</div>'


def _shown(error: Exception) -> Any:
    text = str(error)
    return gr.Error(html.escape(text[:1].upper() + text[1:] + "."), print_exception=False)


def _introduction(name: str, model: Predictor, notice: Notice | None, examples: bool) -> str:
    """The page's introduction: its purpose, the pictures that suit the model, and the first step."""
    bases = [html.escape(base.shown) for base in model.vlm.origin.bases.values()] if model.vlm.origin else []
    made_of = f" It was made from {' and '.join(f'`{base}`' for base in bases)}." if bases else ""
    trained = model.trained_languages
    written = describe_languages(trained) if trained else "many languages"
    sees = notice.sees if notice else "pictures of the kind that it was trained on, such as photographs"
    first = "Choose a picture, or one of the examples" if examples else "Choose a picture"
    return (
        f"# mblip\n`{html.escape(name)}` describes pictures, and answers questions about them, in "
        f"{written}.{made_of} "
        f"It is made for {sees}.\n\n{first}, pick the languages, and press *Caption*; or write a question and press *Ask*."
    )


def _known(notice: Notice | None, folder: Path) -> list[str]:
    """The example pictures of plug-ins, where they know the model and it the pictures; a model of photographs has none."""
    if notice is None:
        return []
    drawn = [path for _, draw in plugins.demo_pictures.usable() for path in draw(folder)]
    return [str(path) for path in drawn if notice(Image.open(path)) is None]


def _copies(examples: Sequence[Path], folder: Path) -> list[str]:
    """A person's own example pictures, in the folder that the page may show files from."""
    copied: list[str] = []
    for place, path in enumerate(examples, start=1):
        try:
            Image.open(path).load()
            copied.append(str(shutil.copy(path, folder / f"example-{place}{path.suffix.lower()}")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            check_readable(path)
            raise InputError(f"the example {path} cannot be read as a picture: {error}") from error
    return copied
