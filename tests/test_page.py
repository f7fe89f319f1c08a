"""The page in a browser: hover, drag the budget, choose A and B, sort, filter, go by address; 10,000 points."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from points import flops, point, some

from sim import report
from sim.base.yaml import parse
from sim.experiment.results import Results
from sim.experiment.run import run
from sim.scenario.scenario import from_document, load

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests drive Chromium by playwright")

SCENARIO = """\
version: 1
name: demo
description: A network with copies, products, a budget and a map
graph: {kind: mlp, widths: [{repeat: 64, times: 9}, 4], batch: 512, activation: tanh, loss: mse}
wrt: input
device: {flops: 1 GFLOP/s, bandwidth: 1 GB/s, memory: 100 MB, to_host: 1 GB/s, from_host: 1 GB/s}
budget: 1.5 MB
strategies:
  - reverse_full
  - reverse_offload
  - jacobian_chain: {order: [forward, reverse, optimal_matrix_free]}
  - reverse_checkpointed: {schedule: binomial, slots: [2, 3, 5]}
  - reverse_checkpointed: {schedule: sqrt}
regimes:
  x: {key: "graph.widths[0]", values: [1, 8, 64]}
  y: {key: "graph.batch", values: [8, 64]}
"""
RAN = run(from_document(parse(SCENARIO, name="f.yaml")))
FINDING = report.finding(RAN.to_dict()).sentence.removeprefix("demo: ") + "."
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as p:
        try:
            found = p.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        except playwright.Error:
            pytest.skip("no Chromium is installed")
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of results at an address; afterwards no error may have been raised, nothing asked for."""
    wrong: list[str] = []
    pages = []

    def open_page(results: Results = RAN, address: str = "", **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(report.html(results.to_dict(), command="sim run demo.yaml"))
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        pages.append(page)
        page.set_default_timeout(8_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
        page.goto(f"file://{path}{address}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not wrong


def until(page: Any, condition: str) -> None:
    """Waits for an expression; playwright's own waiting evaluates text in the page, which forbids it."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never: {condition}")


def spot(page: Any, label: str) -> tuple[float, float]:
    """Where a point of the front is on the screen: its row chooses it as A, whose ring is there."""
    page.evaluate("document.querySelector('#front').scrollIntoView()")
    page.select_option("#pick-a", label=label)
    box = page.locator("#front .ring.a").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_page_has_every_section_and_says_the_finding(opened: Open) -> None:
    page = opened()
    assert [x.get_attribute("id") for x in page.locator("main > section").all()] == [
        "regimes", "front", "model", "memory", "schedule", "streams", "peak", "products", "table", "about",
    ]  # fmt: skip
    assert page.locator("#finding").inner_text() == FINDING
    assert page.locator(".number").count() == 3
    assert "sim run demo.yaml" in page.locator("#about").inner_text()
    assert RAN.scenario["sha256"] in page.locator("#about").inner_text()


def test_a_hover_tells_of_the_point_and_why_it_does_not_fit(opened: Open) -> None:
    page = opened()
    misfit = next(p for p in RAN.points if not p.fits)
    page.mouse.move(*spot(page, misfit.label))
    told = page.locator("#tip").inner_text()
    assert misfit.label in told
    assert misfit.why_not is not None
    assert misfit.why_not in told


def test_the_front_answers_to_the_keyboard(opened: Open) -> None:
    page = opened()
    page.locator("#front svg.over").focus()
    page.keyboard.press("ArrowRight")
    label = page.locator("#tip .head").inner_text()
    assert label in {p.label for p in RAN.points}
    page.keyboard.press("Shift+Enter")
    assert page.locator("#pick-b option:checked").text_content() == label
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_a_notebook_shows_the_whole_page(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{RAN._repr_html_()}")
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/notebook.html")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(timeout=8_000)
    frame.locator("#pick-a").select_option(label="sqrt")
    assert "sqrt" in frame.locator("#memory h3").first.inner_text()
    page.close()


def test_a_shipped_scenario_is_small_and_opens_within_a_second(opened: Open) -> None:
    results = run(load(Path(__file__).parents[1] / "scenarios" / "deep_mlp.yaml"))
    assert len(report.html(results.to_dict())) < 500_000
    page = opened(results)
    assert page.evaluate("performance.getEntriesByName('ready')[0].startTime") < 1000


def test_a_click_chooses_a_and_with_shift_b(opened: Open) -> None:
    page = opened()
    at = {label: spot(page, label) for label in ("reverse_full", "binomial slots=3")}
    page.mouse.click(*at["reverse_full"])
    assert page.locator("#pick-a option:checked").text_content() == "reverse_full"
    page.keyboard.down("Shift")
    page.mouse.click(*at["binomial slots=3"])
    page.keyboard.up("Shift")
    assert page.locator("#pick-b option:checked").text_content() == "binomial slots=3"
    heads = page.locator("#memory h3").all_inner_texts()
    assert "reverse_full" in heads[0]
    assert "binomial slots=3" in heads[1]
    page.keyboard.press("x")
    assert page.locator("#pick-a option:checked").text_content() == "binomial slots=3"


def test_points_in_one_place_are_chosen_one_after_the_other(opened: Open) -> None:
    page = opened()
    at = spot(page, "reverse_full")
    page.mouse.move(*at)
    assert "in the same place: jacobian_chain optimal_matrix_free" in page.locator("#tip").inner_text()
    for label in ("jacobian_chain optimal_matrix_free", "reverse_full"):
        page.mouse.click(*at)
        assert page.locator("#pick-a option:checked").text_content() == label


def test_the_dragged_budget_lights_the_cheapest_plan_below_it(opened: Open) -> None:
    page = opened()
    page.evaluate("document.querySelector('#front').scrollIntoView()")
    computing = [p for p in RAN.points if not any(p.copied_bytes.values())]

    def cheapest(budget: int) -> str:
        within = [p for p in computing if p.peak_bytes <= budget]
        return min(within, key=lambda p: (p.flops["total"], p.peak_bytes)).label

    for move in (-40, -60, 30):
        handle = page.locator("#budget .handle").bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        before = int(page.locator("#budget").get_attribute("aria-valuenow"))
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + move, steps=5)
        page.evaluate("new Promise(requestAnimationFrame)")
        page.mouse.up()
        budget = int(page.locator("#budget").get_attribute("aria-valuenow"))
        assert (budget > before) == (move < 0)
        assert page.locator("#answer button").first.inner_text() == cheapest(budget)
        assert page.locator("#lit").count() == 1
    for budget in sorted(p.peak_bytes for p in RAN.points if p.fits):  # a plan of exactly the budget is within it
        page.evaluate(f"location.hash = '#budget={budget}'")
        until(page, f"document.querySelector('#budget').getAttribute('aria-valuenow') === '{budget}'")
        if budget >= min(p.peak_bytes for p in computing):
            assert page.locator("#answer button").first.inner_text() == cheapest(budget)
    page.locator("#budget").focus()
    before = budget
    page.keyboard.press("ArrowUp")
    assert int(page.locator("#budget").get_attribute("aria-valuenow")) > before


def test_an_address_chooses_points_budget_and_axes_and_follows_them(opened: Open) -> None:
    page = opened(address=f"#point={quote('binomial slots=5')}&b=sqrt&budget=1100000&x=time&y=working")
    assert page.locator("#pick-a option:checked").text_content() == "binomial slots=5"
    assert page.locator("#pick-b option:checked").text_content() == "sqrt"
    assert page.locator("#budget").get_attribute("aria-valuenow") == "1100000"
    assert page.locator('#front [data-value="time"]').get_attribute("aria-checked") == "true"
    page.select_option("#pick-b", label="reverse_full")
    until(page, "location.hash.includes('b=reverse_full')")
    page.evaluate("location.hash = '#point=sqrt'")
    until(page, "document.querySelector('#pick-a option:checked').textContent === 'sqrt'")


def test_an_address_that_names_nothing_is_passed_over(opened: Open) -> None:
    page = opened(address="#point=constructor&b=__proto__&budget=-3&x=toString&y=")
    assert page.locator("#finding").inner_text() == FINDING
    assert int(page.locator("#budget").get_attribute("aria-valuenow")) == 1_500_000


def test_the_table_is_sorted_filtered_and_copied(opened: Open) -> None:
    page = opened()
    names = page.locator("#table tbody td.label")
    page.locator('#table th[data-key="peak"] button').click()
    by_peak = [p.label for p in sorted(RAN.points, key=lambda p: p.peak_bytes)]
    assert [x.strip("AB\n") for x in names.all_inner_texts()] == by_peak
    page.locator('#table th[data-key="peak"] button').click()
    assert page.locator('#table th[data-key="peak"]').get_attribute("aria-sort") == "descending"
    page.keyboard.press("/")
    page.keyboard.type("binomial")
    assert names.count() == 3
    page.evaluate("navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }")
    page.locator("#table button", has_text="copy as CSV").click()
    until(page, "globalThis.copied !== undefined")
    copied = page.evaluate("globalThis.copied").splitlines()
    assert copied[0].startswith("label,peak_bytes,working_bytes,flops")
    exact = {p.label: str(p.peak_bytes) for p in RAN.points}
    assert {row.split(",")[0]: row.split(",")[1] for row in copied[1:]} == {
        k: v for k, v in exact.items() if k.startswith("binomial")
    }


def test_the_cursor_lists_what_is_in_memory(opened: Open) -> None:
    page = opened(address="#point=reverse_full")
    chart = page.locator("#memory .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 80)
    first = page.locator("#memory .live").first.inner_text()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 80)
    assert page.locator("#memory .live").first.inner_text() != first
    assert "activation(layer" in first


def test_blocks_fold_and_unfold(opened: Open) -> None:
    page = opened()
    bars = page.locator("#model .chart").first.locator("rect.hit")
    many = bars.count()
    page.locator("#model button", has_text="fold blocks").click()
    folded = bars.count()
    assert folded < many
    bars.first.click(force=True, position={"x": 3, "y": 70})
    assert folded < bars.count() < many


def test_the_schedule_zooms_by_drag_and_keys(opened: Open) -> None:
    page = opened()
    svg = page.locator("#schedule svg.over")
    svg.scroll_into_view_if_needed()
    ticks = svg.locator(".axes text")
    whole, box = ticks.all_text_contents(), svg.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    assert ticks.all_text_contents() != whole
    svg.focus()
    page.keyboard.press("0")
    assert ticks.all_text_contents() == whole


def test_names_are_text_whatever_they_hold(opened: Open) -> None:
    hostile = "</script><img src=x onerror='globalThis.hurt=1'><b>"
    results = some(
        point(label=hostile, notes={"bracketing": hostile}, fits=False, why_not=hostile), point(peak_bytes=9)
    )
    results.scenario["name"] = results.scenario["description"] = hostile
    page = opened(results)
    assert hostile in page.locator("h1").inner_text()
    assert page.evaluate("globalThis.hurt") is None
    assert page.locator("img").count() == 0


def test_dark_and_narrow_pages_do_not_scroll_sideways(opened: Open) -> None:
    for width in (420, 900, 1600):
        page = opened(viewport={"width": width, "height": 800}, color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert red + green + blue < 150
        page.keyboard.press("d")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_no_two_labels_of_a_chart_overlap(opened: Open) -> None:
    page = opened()
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll("#front svg.over, #main .chart")].flatMap((svg) => {
          const boxes = [...svg.querySelectorAll("text:not(.flagtext, .handletext, [transform])")]
            .map((text) => [text.textContent, text.getBoundingClientRect()]);
          const meet = (p, q) => p.left < q.right - 1 && q.left < p.right - 1
            && p.top < q.bottom - 3 && q.top < p.bottom - 3;
          return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([, q]) => meet(p, q)).map(([b]) => [a, b]));
        })"""
    )
    assert overlaps == []


def test_an_interrupted_run_without_views_or_points_has_a_page(opened: Open) -> None:
    page = opened(some())
    assert "no point was finished" in page.locator("#finding").inner_text()
    page = opened(some(point()))
    assert page.locator("#table tbody td.label").count() == 1


def test_pipelines_are_compared_by_time_bubble_and_micro_batches(opened: Open) -> None:
    text = """\
version: 1
name: pipes
parallel:
  pipeline:
    stages: 4
    schedule: [gpipe, 1f1b, zb_h1]
    micro_batches: 8
    times: {forward: 1 ms, input_vjp: 1 ms, weight_vjp: 1 ms}
"""
    ran = run(from_document(parse(text, name="f.yaml")))
    page = opened(ran)
    best = min(ran.points, key=lambda p: p.seconds or 0)
    assert page.locator("#finding").inner_text().startswith(f"{best.label} takes ")
    assert [x.get_attribute("id") for x in page.locator("main > section").all()] == [
        "front", "pipeline", "table", "about",
    ]  # fmt: skip
    assert page.locator("#pipeline text.lane").all_text_contents() == [f"A  {best.label}", "B  gpipe"]
    assert "NaN" not in page.locator("main").inner_text()


def test_print_is_light_and_paints_points_where_the_axes_are(opened: Open) -> None:
    page = opened(color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--ink')").strip() == "#1f2328"
    canvas, svg = (page.locator(f"#front .stage > {x}").bounding_box() for x in ("canvas", "svg"))
    assert (canvas["x"], canvas["width"]) == (svg["x"], svg["width"])
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") is None


@pytest.mark.slow
def test_ten_thousand_points_stay_fluid(opened: Open) -> None:
    """A frame's work (hover, drag, scroll, filter) stays below 50 ms: 60 frames a second on a quiet machine."""
    many = [
        point(
            label=f"plan {i}", peak_bytes=1000 + 7919 * i % 100_003, working_bytes=996 + 7919 * i % 100_003,
            flops=flops(1000 + 104_729 * i % 99_991), pareto={"flops": i % 100 == 0, "seconds": False},
        )
        for i in range(10_000)
    ]  # fmt: skip
    page = opened(some(*many))
    times = page.evaluate(
        """async () => {
          const $ = (selector) => document.querySelector(selector), svg = $("#front svg.over");
          const box = svg.getBoundingClientRect(), scroll = $("#table .scroll"), search = $("#table input");
          const median = async (act) => {
            const took = [];
            for (let k = 0; k < 31; k += 1) {
              await new Promise(requestAnimationFrame);
              const begin = performance.now();
              act(k);
              document.body.offsetHeight;  // lays the page out now
              took.push(performance.now() - begin);
            }
            return took.sort((a, b) => a - b)[15];
          };
          const send = (target, event) => target.dispatchEvent(event);
          const key = (k) => new KeyboardEvent("keydown", { key: k % 3 ? "ArrowUp" : "PageDown", bubbles: true });
          const move = (k) => new PointerEvent("pointermove", { clientX: box.left + 100 + 25 * k, clientY: 300 });
          return {
            hover: await median((k) => send(svg, move(k))),
            drag: await median((k) => send($("#budget"), key(k))),
            scroll: await median((k) => { scroll.scrollTop = 9000 * k; send(scroll, new Event("scroll")); }),
            filter: await median((k) => { search.value = String(k); send(search, new Event("input")); }),
          };
        }"""
    )
    assert max(times.values()) < 50, times
    assert page.locator("#table tbody tr").count() < 100
