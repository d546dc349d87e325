"""The page in a browser without a screen: it writes what Python writes, scores what is pasted, and asks no network."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2q.generate import generate
from pipeline.export.model_file import write_model
from pipeline.export.page import letters, write_page
from pipeline.export.wasm import EXPORTS, SOURCE, WASM, compile_wasm, source_of

TOLD: dict[str, Any] = {"name": "a </script> run", "parameters": 12345, "corpus": "tests", "licence": "MIT"}
TOLD |= {"measured": None, "validation_bpb": 2.5}


def test_the_compiled_runtime_is_of_the_source_beside_it() -> None:
    assert source_of(WASM.read_bytes()) == hashlib.sha256(SOURCE.read_bytes()).digest(), (
        "runtime.c has changed: python -m pipeline.export.wasm"
    )


@pytest.mark.slow
def test_the_source_compiles_to_the_runtime_that_is_kept() -> None:
    pytest.importorskip("ziglang")
    assert compile_wasm() == WASM.read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[[bytes], Any]]:
    pages = []

    def show(content: bytes, **screen: int) -> Any:
        (tmp_path / "page.html").write_bytes(content)
        page = browser.new_page(viewport=screen or {"width": 1280, "height": 900})
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function(
            "() => globalThis.model || document.getElementById('about').textContent.includes('cannot')"
        )
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()


@pytest.mark.parametrize("changes", [{}, {"mixer": "state", "ngrams": "2:97x8", "rotation": "quaternion"}], ids=str)
def test_the_page_writes_what_python_writes(changes: dict, new_model: Callable, open_page: Callable) -> None:
    model = new_model(**changes)
    page = open_page(write_page(model, TOLD, "fp32", frozenset()))
    written = page.evaluate(
        """() => {
            model.reset();
            for (const byte of new TextEncoder().encode("The ")) model.step(byte);
            return Array.from({ length: 300 }, () => { const byte = model.sample(0); model.step(byte); return byte; });
        }"""
    )
    assert bytes(written) == generate(model, b"The ", 300, temperature=0)
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == [] and page.wrong == []


def test_the_page_scores_what_is_pasted_and_obeys_the_keyboard(
    new_model: Callable, open_c: Callable, open_page: Callable
) -> None:
    model, text = new_model(), "Wörter, words, mots. "
    page = open_page(write_page(model, TOLD, "int8", frozenset()))
    for told in ("12,345 numbers", "a </script> run", "2.500 bits per byte on the validation split"):
        assert told in page.inner_text("#about")
    page.wait_for_function("() => document.getElementById('written').textContent.length > 50")
    page.focus("#prompt")
    page.keyboard.press("End")
    page.keyboard.type("more")
    assert page.input_value("#prompt").endswith("more")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["written", "write", "temperature", "pasted"]
    page.keyboard.insert_text(text)
    page.wait_for_function("() => document.getElementById('score').textContent.includes('over 22 bytes')")
    bits = 8.0
    with open_c(write_model(model, TOLD, "int8")) as found:
        for number, byte in enumerate(text.encode()):
            if number:
                logits = found.logits().astype(np.float64)
                bits += (np.log(np.exp(logits).sum()) - logits[byte]) / np.log(2)
            found.step(byte)
    assert f"{bits / 22:.3f} bits per byte" in page.inner_text("#score")
    assert page.wrong == []


def test_typing_while_it_writes_begins_anew(new_model: Callable, open_c: Callable, open_page: Callable) -> None:
    model = new_model(mixer="state")
    page = open_page(write_page(model, TOLD, "int8", frozenset()))
    page.fill("#temperature", "0")
    page.focus("#prompt")
    page.keyboard.type("abcdef", delay=5)
    page.wait_for_function("() => document.getElementById('write').textContent === 'Write on'")
    with open_c(write_model(model, TOLD, "int8")) as found:
        found.read(page.input_value("#prompt").encode())
        written = found.write(2000).decode(errors="replace")
    assert "abcdef" in page.input_value("#prompt")
    assert page.text_content("#written") == re.sub(r"[\0-\x08\x0b-\x1f\x7f]", "\ufffd", written)
    assert page.wrong == []


def put(page: Any, box: str, text: str) -> dict[str, Any]:
    """The text in its place, at temperature 0; what the writing session has read, and the page says, on return."""
    return page.evaluate(
        """([box, text]) => {
            const step = (globalThis.plain ||= model.step);
            let clock = performance.now();
            performance.now = () => clock++; // a slice is so many bytes on any machine
            globalThis.steps = [];
            model.step = (byte) => { steps.push(byte); return step(byte); };
            for (const [id, value] of [["temperature", "0"], [box, text]]) {
                document.getElementById(id).value = value;
                document.getElementById(id).dispatchEvent(new Event("input"));
            }
            const said = (id) => [id, document.getElementById(id).textContent];
            return { read: steps.length, ...Object.fromEntries(["speed", "score", "written"].map(said)) };
        }""",
        [box, text],
    )


def steps(page: Any) -> bytes:
    """What the writing session has read when it is at its end."""
    page.wait_for_function("() => document.getElementById('write').textContent === 'Write on'")
    return bytes(page.evaluate("steps"))


def test_a_long_text_is_read_in_slices_and_only_once(
    new_model: Callable, open_c: Callable, open_page: Callable
) -> None:
    model, text = new_model(mixer="both", ngrams="2:97x8"), "ab" * 2_000
    page = open_page(write_page(model, TOLD, "fp32", frozenset()))
    with open_c(write_model(model, TOLD, "fp32")) as found:
        found.read(text.encode())
        state = found.saved()
        wanted = text.encode() + found.write(300)
        begun = put(page, "prompt", text)
        assert 0 < begun["read"] < 100 and "bytes to go" in begun["speed"] and begun["written"] == ""
        assert steps(page)[: len(wanted)] == wanted
        for added in ("c", "", "de"):  # one more, back again, others
            found.restore(state)
            found.read(added.encode())
            wanted = added.encode() + found.write(300)
            put(page, "prompt", text + added)
            assert steps(page)[: len(wanted)] == wanted
    assert page.wrong == []


def test_of_a_long_text_a_window_takes_its_end(new_model: Callable, open_page: Callable) -> None:
    model, text = new_model(), "In a text there are more bytes than a window has."
    page = open_page(write_page(model, TOLD, "fp32", frozenset()))
    wanted = text.encode()[-model.config.seq_len :] + generate(model, text.encode(), 300, temperature=0)
    for _ in range(2):
        put(page, "prompt", text)
        assert steps(page)[: len(wanted)] == wanted


def test_write_on_writes_on_at_the_temperature_of_now(
    new_model: Callable, open_c: Callable, open_page: Callable
) -> None:
    model = new_model(mixer="state")
    page = open_page(write_page(model, TOLD, "fp32", frozenset()))
    put(page, "prompt", "A text ")
    read = steps(page)
    assert len(read) == 7 + 2000
    page.fill("#temperature", "1.5")
    assert "what comes next" in page.inner_text("#speed")
    page.click("#write")
    again = steps(page)
    assert len(again) == 7 + 4000 and again.startswith(read)
    with open_c(write_model(model, TOLD, "fp32")) as found:
        found.read(read)
        assert again[len(read) :] != found.write(2000)  # the likeliest no more
    seen = "document.getElementById('written')"
    assert page.evaluate(f"{seen}.scrollTop + {seen}.clientHeight > {seen}.scrollHeight - 30")


def test_a_byte_that_the_alphabet_lacks_is_told(new_model: Callable, open_page: Callable) -> None:
    model = new_model(mixer="state", vocab=200)
    page = open_page(write_page(model, TOLD, "fp32", frozenset()))
    begun = put(page, "prompt", "a \U0001f40d")
    assert "alphabet of the model lacks a byte" in begun["speed"] and page.is_disabled("#write")
    put(page, "prompt", "a snake")
    wanted = b"a snake" + generate(model, b"a snake", 100, temperature=0)
    assert steps(page)[: len(wanted)] == wanted and page.is_enabled("#write")


@pytest.mark.parametrize(("vocab", "start"), [(10, b"\0"), (11, b"\n")])
def test_without_a_text_it_begins_with_a_byte_of_the_alphabet(
    vocab: int, start: bytes, new_model: Callable, open_page: Callable
) -> None:
    model = new_model(mixer="state", vocab=vocab)
    page = open_page(write_page(model, TOLD | {"alphabet": vocab}, "fp32", frozenset()))
    put(page, "prompt", "")
    wanted = start + generate(model, start, 100, temperature=0)
    assert steps(page)[: len(wanted)] == wanted and page.is_enabled("#write") and page.wrong == []


def test_scoring_and_writing_leave_each_other_alone(new_model: Callable, open_page: Callable) -> None:
    page = open_page(write_page(new_model(mixer="state"), TOLD, "int8", frozenset()))
    put(page, "prompt", "The ")
    before = steps(page)
    begun = put(page, "pasted", "ab" * 1_500)
    assert begun["read"] == 0 and begun["score"].startswith("So far ")
    put(page, "prompt", "The ")
    page.wait_for_function("() => document.getElementById('score').textContent.endsWith('over 3,000 bytes')")
    assert before.endswith(steps(page)) and len(steps(page)) == 2000  # the text was read before
    assert put(page, "pasted", "a")["score"] == "8.000 bits per byte over 1 byte"
    assert put(page, "pasted", "")["score"] == "Nothing pasted." and page.wrong == []


def test_a_narrower_window_and_back_leave_the_energies_as_they_were(new_model: Callable, open_page: Callable) -> None:
    page = open_page(write_page(new_model(depth=3), TOLD, "int8", frozenset()))
    page.wait_for_function("() => document.getElementById('write').textContent === 'Write on'")
    pictures = []
    for width in (1280, 390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
        pictures.append(page.evaluate("document.getElementById('energy').toDataURL()"))
    assert pictures[0] == pictures[2] != pictures[1]
    assert page.inner_text("#legend").split() == ["Block", "1", "2", "3"]


@pytest.mark.parametrize("screen", [{"width": 360, "height": 740}, {"width": 1440, "height": 900}], ids=str)
def test_the_page_fits_the_screen(screen: dict, new_model: Callable, open_page: Callable) -> None:
    page = open_page(write_page(new_model(), TOLD, "int8", frozenset()), **screen)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_with_a_damaged_model_says_so(new_model: Callable, open_page: Callable) -> None:
    content = write_model(new_model(), TOLD, "int8")
    spoilt = content[:300] + bytes((content[300] ^ 1,)) + content[301:]
    whole = write_page(new_model(), TOLD, "int8", frozenset())
    page = open_page(whole.replace(letters(content).encode(), letters(spoilt).encode()))
    assert "altered" in page.inner_text("#about")


def test_every_function_that_the_page_calls_is_exported() -> None:
    called = set(re.findall(r"\bc\.(\w+)", SOURCE.with_name("page.html").read_text())) - {"memory", "_initialize"}
    assert called <= set(EXPORTS)
