"""The page that `compare` writes, in a headless Chromium: every control is pressed and does what it
says, nothing hostile runs, and many long runs stay small and quick.
"""

import base64
import io
import json
import random
import re
import time

import numpy as np
import pandas as pd
import pytest
from helpers.browser import CHROMIUM, chromium
from helpers.made_runs import epoch_rows, make_run

from lightning_resnet.analysis.compare import page as page_of
from lightning_resnet.analysis.compare.figures import palette
from lightning_resnet.analysis.compare.panels import Drawing, Map, Panel, map_of, panels
from lightning_resnet.analysis.compare.report import View, report

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium")
CHART = "explorer.charts[0].chart"
SECOND = "explorer.charts[1].chart"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of 12 finished runs and one that was interrupted; one name is hostile."""
    root = tmp_path_factory.mktemp("page") / "runs"
    errors = {(20, "none"): 5, (56, "none"): 41, (20, "A"): 3, (56, "A"): 2}
    for (depth, shortcut), error in errors.items():
        for seed in range(3):
            rows = []
            for epoch in range(8):
                rows += epoch_rows(epoch, error + seed + 40 / (epoch + 1) ** 2)
            for row in rows:
                row["time"] = 100.0 + row["step"] * (1 + 0.01 * seed)
            name = f"{depth}{shortcut}{seed}"
            size = 128 if seed == 2 else 64
            make_run(
                root / "s" / name,
                depth=depth,
                shortcut=shortcut,
                seed=seed,
                rows=rows,
                batch_size=size,
            )
    make_run(
        root / "<script>document.title='ran'<!--" / "<img src=x onerror=alert(1)>",
        reason="interrupted",
        errors=(80, 70, 60),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
        return report([root], root.parent / "report", View(rows=["depth", "shortcut"])).files[-1]


@pytest.fixture
def page(browser, made):
    browser.size(1280)
    browser.open(made.as_uri())
    browser.problems.clear()
    yield browser
    assert browser.problems == [] and browser.evaluate("document.title") != "ran"


def control(label):
    return f"document.querySelector('[aria-label={json.dumps(label)}]')"


def button(text):
    return (
        f"[...document.querySelectorAll('button')].find(b => b.textContent === {json.dumps(text)})"
    )


def labels(browser, chart=CHART):
    return browser.evaluate(f"{chart}.lines.map(line => line.label)")


def range_of(browser, axis, chart=CHART):
    return browser.evaluate(f"[{chart}.u.scales.{axis}.min, {chart}.u.scales.{axis}.max]")


def column(browser, name):
    """Texts of a column of the table of runs."""
    cells = (
        "(name => { const rows = [...document.querySelectorAll('table.runs tr')];"
        "const i = [...rows[0].cells].findIndex(th => th.title === name);"
        "return rows.slice(1).map(row => row.cells[i].textContent); })"
    )
    return browser.evaluate(f"{cells}({json.dumps(name)})")


def heading(name):
    return f"document.querySelector('table.runs th[title={json.dumps(name)}]')"


def test_metric_and_axes_are_chosen(page):
    assert len(labels(page)) == 4 * 2 + 2  # validation and training; the unfinished run's
    page.choose("explorer.charts[0].select", "val/loss")
    assert page.evaluate(f"{CHART}.title.textContent") == "Validation loss"
    assert len(labels(page)) == 5
    last = {"step": 80, "epoch": 8, "images": 80 * 128, "time": 75 * 1.02}
    for axis, end in last.items():
        page.choose(control("x axis"), axis)
        assert page.evaluate(f"Math.max(...{CHART}.data[0])") <= end + 0.5
        assert page.evaluate(f"{CHART}.u.axes[0].label").split()[0] in {
            "iterations",
            "epochs",
            "images",
            "seconds",
        }
    page.click(control("logarithmic x axis"))
    assert page.evaluate(f"{CHART}.u.scales.x.distr") == 3
    page.click(f"{SECOND}.log")
    assert page.evaluate(f"{SECOND}.u.scales.y.distr") in (3, 4)


def test_lines_are_grouped_and_coloured_by_any_setting(page):
    page.choose(control("one line for each"), "run")
    assert len(labels(page)) == 13 * 2
    page.choose(control("one line for each"), "batch_size")
    assert {label.split(",")[0] for label in labels(page)} == {"batch size 64", "batch size 128"}
    page.choose(control("one line for each"), "run")
    page.choose(control("colour by"), "depth")
    assert len(page.evaluate(f"[...new Set({CHART}.lines.map(line => line.colour))]")) == 2


def test_smoothing_takes_out_what_jumps(page):
    page.choose("explorer.charts[0].select", "val/acc1")
    jump = f"Math.abs({CHART}.lines[0].y[1] - {CHART}.lines[0].y[0])"
    before = page.evaluate(jump)
    page.drag(control("smoothing"), (0.05, 0.5), (0.9, 0.5))
    page.wait("!explorer.waiting")
    assert page.evaluate("explorer.state.smooth") > 0.5
    assert page.evaluate(jump) < 0.7 * before
    assert "smoothed" in page.evaluate("explorer.styles.textContent")


def test_a_drag_zooms_and_buttons_do(page):
    over = f"{CHART}.u.over"
    full = range_of(page, "x")
    page.drag(over, (0.25, 0.5), (0.5, 0.5))
    low, high = range_of(page, "x")
    assert full[0] < low < high < full[1] and (high - low) < 0.3 * (full[1] - full[0])
    page.drag(over, (0.2, 0.2), (0.8, 0.7))
    assert range_of(page, "y") != pytest.approx(range_of(page, "y", SECOND))
    page.click(over, count=2)
    assert range_of(page, "x") == full
    zoom = f"{CHART}.card.querySelector('[aria-label={{}}]')"
    page.click(zoom.format('"zoom in"'))
    assert (range_of(page, "x")[1] - range_of(page, "x")[0]) < 0.6 * (full[1] - full[0])
    page.click(zoom.format('"zoom out"'))
    page.click(zoom.format('"zoom in"'))
    page.click(zoom.format('"show all (double click)"'))
    assert range_of(page, "x") == full


def test_the_cursor_tells_run_and_values(page):
    x, y = page.place(f"{CHART}.u.over", 0.6, 0.05)
    page.mouse("mouseMoved", x, y)
    told = page.evaluate(f"{CHART}.box.innerText")
    assert "iterations" in told and "depth 56, plain, validation" in told and " %" in told
    assert page.evaluate(f"{CHART}.box.hidden") is False
    page.mouse("mouseMoved", 2, 2)
    assert page.evaluate(f"{CHART}.box.hidden") is True


def test_runs_are_hidden_and_shown(page):
    page.click("document.querySelector('.legend input')")
    assert len(labels(page)) == 8 + 2 - 2
    page.click("document.querySelector('.legend input')")
    page.evaluate("document.querySelector('.legend .only').style.visibility = 'visible'")
    page.click("document.querySelector('.legend .only')")
    assert len(labels(page)) == 2
    page.click(button("Hide all"))
    assert labels(page) == [] and "no run" in page.evaluate(f"{CHART}.plot.textContent")
    page.click(button("Show all"))
    assert len(labels(page)) == 10
    page.choose(control("one line for each"), "run")
    page.click("document.querySelector('table.runs input')")
    assert len(labels(page)) == 24
    assert "12 of 13 runs shown" in page.evaluate("explorer.count.textContent")


@pytest.mark.parametrize(
    "where, n",
    [
        ("depth == 56", 6),
        ("depth == 56 and shortcut != 'none'", 3),
        ("not (depth == 56) and seed in (0, 2)", 5),
        ("final_error < 10 or status == 'interrupted'", 10),
        ("`batch_size` >= 128", 4),
        ("50 < depth <= 56 & shortcut != 'none'", 3),
        ("depth == 56 | depth == 20", 13),
        ("name ~ 'script'", 1),
        ("interrupted", 1),
        ("", 13),
    ],
)
def test_an_expression_chooses_runs(page, where, n):
    page.type(control("only runs for which"), where)
    assert page.evaluate("explorer.problem.textContent") == ""
    assert page.evaluate("document.querySelectorAll('table.runs tr').length") == 1 + n
    assert page.evaluate("explorer.fitting().length") == n


@pytest.mark.parametrize(
    "where, why",
    [
        ("depht == 56", "there is no column depht"),
        ("depth == ", "a value is missing"),
        ("(depth == 56", ") is missing"),
        ("depth = 56", "cannot read"),
        ("depth == 56 56", "unexpected 56"),
        ("shortcut in 'A'", "write a list"),
        ("constructor == 1", "there is no column"),
        ("depth * 2 == 112", "cannot read * 2"),
    ],
)
def test_a_wrong_expression_says_what_is_wrong_and_changes_nothing(page, where, why):
    # a metric of that name is none of Object's own
    assert page.evaluate("explorer.curve(explorer.data.runs[0], 'constructor').x") == []
    page.type(control("only runs for which"), where)
    assert why in page.evaluate("explorer.problem.textContent")
    assert page.evaluate("explorer.fitting().length") == 13


def test_the_table_sorts_and_has_the_columns_one_wants(page):
    page.click(heading("final_error"))
    up = [float(text) for text in column(page, "final_error")]
    page.click(heading("final_error"))
    assert up == sorted(up) and [float(t) for t in column(page, "final_error")] == up[::-1]
    shown = page.evaluate("[...document.querySelectorAll('table.runs th')].map(th => th.title)")
    assert {"depth", "shortcut", "seed", "batch_size"} <= set(shown) and "lr" not in shown
    page.click("document.querySelector('details.choose summary')")
    page.type(control("search columns"), "learning")
    page.click("[...document.querySelectorAll('.columns label')].find(l => !l.hidden)")
    assert set(column(page, "lr")) == {"0.02"}
    titles = page.evaluate("document.querySelector('table.runs').textContent")
    assert "validation error, %" in titles and "val_err" not in titles


def test_the_difference_of_two_runs(page):
    for path in ("20A0", "56none2"):
        page.click(
            "document.querySelector(`input[aria-label='compare s/" + path + "']`)",
        )
    told = page.evaluate("explorer.difference.innerText")
    for words in ("s/20A0", "s/56none2", "batch size", "128", "none"):
        assert words in told
    page.click("document.querySelector('.difference th')")
    page.click("document.querySelector(`input[aria-label='compare s/20A0']`)")
    assert "pick one more run" in page.evaluate("explorer.difference.innerText")


def saved(page, element):
    """Press a button that saves a file; return the file's name and content."""
    page.evaluate(
        "(() => { window.saved = undefined; if (window.keepBlobs) return;"
        "const blobs = new Map(); const made = URL.createObjectURL;"
        "window.keepBlobs = blobs;"
        "URL.createObjectURL = blob => { const u = made(blob); blobs.set(u, blob); return u; };"
        "const read = async u => {"
        " const bytes = new Uint8Array(await blobs.get(u).arrayBuffer());"
        " return btoa(Array.from(bytes, b => String.fromCharCode(b)).join('')); };"
        "HTMLAnchorElement.prototype.click = function () {"
        " read(this.href).then(t => { window.saved = [this.download, t]; }); }; })()"
    )
    page.click(element)
    page.wait("window.saved !== undefined")
    name, content = page.evaluate("window.saved")
    return name, base64.b64decode(content)


def test_charts_are_added_removed_and_saved(page):
    page.click(button("Add a chart"))
    assert page.evaluate("explorer.charts.length") == 3
    page.click("explorer.charts[2].chart.card.querySelector('[aria-label=\"remove this chart\"]')")
    assert page.evaluate("document.querySelectorAll('.chart').length") == 2
    name, content = saved(page, f"{CHART}.card.querySelector('[aria-label=\"save as an image\"]')")
    assert name == "validation_and_training_error.png" and content.startswith(b"\x89PNG")
    name, content = saved(page, f"{CHART}.card.querySelector('[aria-label=\"save the numbers\"]')")
    lines = content.decode().splitlines()
    assert name == "validation_and_training_error.csv"
    assert lines[0].split(",")[0] == "line" and len(lines) == 1 + 4 * 2 * 8 + 2 * 3
    assert (
        lines[1].startswith('"depth 20, plain, validation",10,') and len(lines[1].split(",")) == 8
    )


def test_light_and_dark(page):
    back = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(back) == "rgb(255, 255, 255)"
    page.click("document.getElementById('theme')")
    assert page.evaluate(back) != "rgb(255, 255, 255)"
    page.click("document.getElementById('theme')")
    assert page.evaluate(back) == "rgb(255, 255, 255)"
    page.size(1280, dark=True)
    page.open(page.evaluate("location.href"))
    assert page.evaluate(back) != "rgb(255, 255, 255)"


def test_twins_are_told_apart_on_a_dark_page(page):
    twins = palette(["depth 14, plain", "depth 14, residual (A)"])
    page.click("document.getElementById('theme')")
    sums = []
    for colour in twins.values():
        shown = page.evaluate(f"seen('{colour}')")
        sums.append(sum(int(shown[i : i + 2], 16) for i in (1, 3, 5)))
    assert sums[0] - sums[1] > 120 and sums[1] > 350


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    page.size(width)
    page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(f"{CHART}.u.width") <= width


def test_a_printed_page_has_charts_and_no_controls(page):
    page.size(1280, dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")


def test_the_summary_sorts(page):
    th = "document.querySelector('#report table th:nth-child(3)')"
    texts = (
        "[...document.querySelectorAll('#report table td:nth-child(3)')].map(t => t.textContent)"
    )
    page.click(th)
    up = page.evaluate(texts)
    page.click(th)
    assert page.evaluate(texts) != up
    assert page.evaluate(f"{th}.textContent") == "validation error, %"


def test_the_page_asks_for_nothing_and_runs_only_its_own_scripts(made, browser):
    text = made.read_text()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src" not in policy
    for added in ("<script>document.title = 'ran'</script>", "<img src=x onerror=\"alert('x')\">"):
        file = made.parent / "more.html"
        file.write_text(text.replace("</html>", added + "</html>"))
        browser.open(file.as_uri())
        assert browser.evaluate("document.title") != "ran"
        assert any("Content Security Policy" in str(problem) for problem in browser.problems)
        browser.problems.clear()


def test_charts_of_an_inspection(browser, tmp_path):
    nets = ["depth 8, plain", "<b>depth 8, residual (A)</b>"]
    rows = []
    for net in nets:
        for seed in range(2):
            for i in range(5):
                value = 10.0**-i * (1 + seed)
                rows.append({"net": net, "index": i, "block": f"layer1.{i}", "norm": value})
    frame = pd.DataFrame(rows).assign(error=50.0, unharmed=10.0)
    norm = Panel("norm", "norm of dE/dx", "index", "block, in order of depth", log=True)
    error = Panel("error", "error (%)", "index", "the one block deleted", level="unharmed")
    figure = panels(frame, [norm, error], "title", chance=90.0)
    file = tmp_path / "page.html"
    body = [page_of.drawing(figure, "what is shown")]
    file.write_text(page_of.page("inspection", body, None, "resnet-cli inspect"))
    browser.size(1280)
    browser.open(file.as_uri())
    assert browser.evaluate("document.querySelectorAll('.chart').length") == 2
    chart = "document.querySelectorAll('.chart')[0]"
    names = browser.evaluate("[...document.querySelectorAll('.legend span')].map(s => s.innerText)")
    assert names == [*nets, "chance"]
    x, y = browser.place(f"{chart}.querySelector('.u-over')", 0.5, 0.5)
    browser.mouse("mouseMoved", x, y)
    told = browser.evaluate(f"{chart}.querySelector('.told').innerText")
    assert "layer1.2" in told and nets[1] in told and "(0.01 to 0.02)" in told
    lines = "inspected[0][1].lines.map(line => line.legend)"
    browser.click("document.querySelector('.legend input')")
    assert browser.evaluate(lines) == [nets[1], nets[1], "chance"]
    browser.click("document.querySelectorAll('.chart')[1].querySelector('input')")
    assert browser.evaluate("inspected[0][1].u.scales.y.distr") == 3
    browser.click("document.querySelectorAll('.chart')[1].querySelector('input')")
    assert browser.evaluate("inspected[0][1].u.scales.y.min") == 0
    assert browser.problems == []


HOSTILE = "\"><script>document.title='ran'</script><img src=x onerror=alert(1)>"
MAP = "inspected[0][0]"
TWIN = "inspected[0][1]"
CELLS = "inspected[0][2]"


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A page of two maps of the same places, which are surfaces, and one of cells with names."""
    places = [-1.0, -0.5, 0.0, 0.5, 1.0]
    bowl = np.array([[0.1 * 10 ** (2 * abs(x) + abs(y)) for x in places] for y in places])
    hole = 2 * bowl
    hole[0, 0] = np.inf
    plane = {"title": "loss", "x": "direction 1", "y": "direction 2", "xs": places, "ys": places}
    plane |= {"ends": (0.1, 200.0), "log": True, "smooth": True}
    path = ([-1.0, -0.5, 0.0], [0.5, 0.5, 0.0], ["0", "5", HOSTILE])
    names = ([f"layer1.{i}" for i in range(4)], [HOSTILE, "layer1.1"])
    each = [
        Map(HOSTILE, bowl, **plane, path=path),
        Map("depth 8, plain", hole, **plane),
        Map(
            "depth 8, plain",
            np.arange(8).reshape(2, 4) / 8 - 0.25,
            "linear CKA",
            f"block of {HOSTILE}",
            "block",
            [-1, 0, 1, 2],
            [-1, 0],
            (0.0, 1.0),
            against=HOSTILE,
            names=names,
        ),
    ]
    figure = Drawing(figsize=(4, 3), dpi=100)
    figure.charts = [map_of(one, "#0072b2") for one in each]
    file = tmp_path_factory.mktemp("maps") / "page.html"
    body = [page_of.drawing(figure, f"what {HOSTILE} shows")]
    file.write_text(page_of.page(HOSTILE, body, None, f"resnet-cli inspect {HOSTILE}"))
    return file


def test_an_image_is_there_for_browsers_without_scripts_where_it_is_asked_for():
    figure = Drawing(figsize=(4, 3), dpi=100)
    figure.charts = []
    assert page_of.drawing(figure, "<b>").count('<noscript><img alt="&lt;b&gt;" src="data:') == 1
    assert "noscript" not in page_of.drawing(figure, "<b>", has_image=False)


@pytest.fixture
def shown_maps(browser, maps):
    browser.size(1280)
    browser.open(maps.as_uri())
    browser.problems.clear()
    yield browser
    assert browser.problems == [] and browser.evaluate("document.title") != "ran"
    assert (
        browser.evaluate("document.querySelectorAll('img, figure script:not(.charts)').length") == 0
    )


def pixel(browser, chart, x, y):
    """Return red, green and blue at parts of a map's width and height."""
    return browser.evaluate(
        f"(m => [...m.canvas.getContext('2d').getImageData((m.left() + {x} * m.side()) *"
        f" devicePixelRatio, (8 + {y} * m.side()) * devicePixelRatio, 1, 1).data].slice(0, 3))"
        f"({chart})"
    )


def point_at(browser, chart, x, y):
    """Put the mouse on a map; return what the box says."""
    browser.mouse("mouseMoved", *browser.place(f"{chart}.over", x, y))
    return browser.evaluate(f"{chart}.box.innerText")


def test_a_map_tells_both_coordinates_and_the_values_of_twins(shown_maps):
    told = point_at(shown_maps, MAP, 0.75, 0.25)
    for words in ("direction 1: 0.5", "direction 2: 0.5", HOSTILE, "depth 8, plain", "3.162"):
        assert words in told
    assert "6.325" in told  # the twin's value at this place
    shown_maps.mouse("mouseMoved", 2, 2)
    assert shown_maps.evaluate(f"{MAP}.box.hidden") is True
    assert "not finite" in point_at(shown_maps, TWIN, 0.01, 0.99)
    told = point_at(shown_maps, CELLS, 0.6, 0.9)
    assert "layer1.2 (1)" in told and f"{HOSTILE} (-1)" in told and "0\n" in f"{told}\n"
    assert told.count("depth 8, plain") == 1  # no other map has these places


def test_colours_of_twins_have_one_scale_and_grey_is_no_number(shown_maps):
    low, middle = pixel(shown_maps, MAP, 0.5, 0.55), pixel(shown_maps, TWIN, 0.5, 0.55)
    assert low != middle and sum(low) < sum(middle)  # twice the loss: a lighter colour
    assert pixel(shown_maps, TWIN, 0.02, 0.98) == [140, 140, 140]
    before = pixel(shown_maps, MAP, 0.8, 0.3)
    shown_maps.click(f"{MAP}.log")
    assert pixel(shown_maps, MAP, 0.8, 0.3) != before
    assert shown_maps.evaluate(f"{CELLS}.logLabel.hidden && {CELLS}.surface.hidden") is True


def test_a_map_is_zoomed_by_a_drag_and_by_buttons(shown_maps):
    shown_maps.drag(f"{MAP}.over", (0.25, 0.25), (0.75, 0.75))
    for axis in "xy":
        ends = shown_maps.evaluate(f"{MAP}.zoom.{axis}")
        assert ends == pytest.approx([-0.5, 0.5], abs=0.02)
    assert "direction 1: 0.5" in point_at(shown_maps, MAP, 0.98, 0.5)
    shown_maps.click(f"{MAP}.over", count=2)
    assert shown_maps.evaluate(f"{MAP}.zoom") is None
    press = f"{MAP}.card.querySelector('[aria-label={{}}]')"
    shown_maps.click(press.format('"zoom in"'))
    assert shown_maps.evaluate(f"{MAP}.zoom.x") == [-0.5, 0.5]
    for _ in range(3):  # not below two points
        shown_maps.click(press.format('"zoom in"'))
    assert shown_maps.evaluate(f"{MAP}.zoom.x[1] - {MAP}.zoom.x[0]") == 0.5
    for _ in range(3):
        shown_maps.click(press.format('"zoom out"'))
    assert shown_maps.evaluate(f"{MAP}.zoom") is None
    shown_maps.drag(f"{CELLS}.over", (0.02, 0.1), (0.6, 0.95))
    assert shown_maps.evaluate(f"{CELLS}.zoom !== null")
    shown_maps.click(f"{CELLS}.card.querySelector('[aria-label=\"show all (double click)\"]')")
    assert shown_maps.evaluate(f"{CELLS}.zoom") is None


def test_a_surface_is_turned_and_tells_values(shown_maps):
    flat = shown_maps.evaluate(f"{MAP}.canvas.toDataURL()")
    shown_maps.click(f"{MAP}.surface")
    first = shown_maps.evaluate(f"{MAP}.canvas.toDataURL()")
    assert shown_maps.evaluate(f"{MAP}.surface.getAttribute('aria-pressed')") == "true"
    shown_maps.drag(f"{MAP}.over", (0.3, 0.2), (0.7, 0.8))
    turned = shown_maps.evaluate(f"{MAP}.canvas.toDataURL()")
    assert len({flat, first, turned}) == 3 and shown_maps.evaluate(f"{MAP}.zoom") is None
    assert "direction 1: " in point_at(shown_maps, MAP, 0.5, 0.6)
    told = point_at(shown_maps, TWIN, 0.5, 0.6)  # the corner without a number is not the nearest
    assert "direction 1: " in told and "not finite" not in told
    shown_maps.click(f"{MAP}.card.querySelector('[aria-label=\"zoom in\"]')")
    assert shown_maps.evaluate(f"{MAP}.points.length") == 9
    assert shown_maps.evaluate(f"{TWIN}.isSurface && {TWIN}.turn.up === {MAP}.turn.up")
    shown_maps.click(f"{TWIN}.surface")
    shown_maps.click(f"{MAP}.card.querySelector('[aria-label=\"show all (double click)\"]')")
    assert shown_maps.evaluate(f"{MAP}.canvas.toDataURL()") == flat


def test_maps_of_a_net_are_hidden_and_saved(shown_maps):
    boxes = "document.querySelectorAll('.legend input')"
    shown_maps.click(f"{boxes}[1]")
    hidden = f"[{MAP}, {TWIN}, {CELLS}].map(map => map.card.hidden)"
    assert shown_maps.evaluate(hidden) == [False, True, True]
    assert "6.325" not in point_at(shown_maps, MAP, 0.75, 0.25)
    shown_maps.click(f"{boxes}[1]")
    assert shown_maps.evaluate(hidden) == [False] * 3
    name, content = saved(
        shown_maps, f"{MAP}.card.querySelector('[aria-label=\"save as an image\"]')"
    )
    assert re.fullmatch(r"[\w.-]+\.png", name) and content.startswith(b"\x89PNG")
    _, content = saved(
        shown_maps, f"{CELLS}.card.querySelector('[aria-label=\"save the numbers\"]')"
    )
    table = pd.read_csv(io.BytesIO(content))
    assert list(table)[-3:] == ["linear CKA", "name on x", "name on y"] and len(table) == 8
    assert table["linear CKA"].tolist() == [i / 8 - 0.25 for i in range(8)]


@pytest.mark.parametrize("width", [390, 1280])
def test_maps_fit_the_screen_and_paper(shown_maps, width):
    shown_maps.size(width)
    shown_maps.wait(f"{MAP}.width === {MAP}.plot.clientWidth")
    assert shown_maps.evaluate("document.documentElement.scrollWidth") <= width
    assert shown_maps.evaluate(f"{MAP}.canvas.getBoundingClientRect().right") <= width
    light = pixel(shown_maps, MAP, 1.01, 0.5)
    shown_maps.click("document.getElementById('theme')")
    shown_maps.size(width, media="print")
    assert (
        shown_maps.evaluate("getComputedStyle(document.querySelector('.tools')).display") == "none"
    )
    assert pixel(shown_maps, MAP, 1.01, 0.5) == light
    pdf = base64.b64decode(shown_maps.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")


def test_a_figure_without_a_value_to_draw_has_words():
    frame = pd.DataFrame({"net": "depth 8", "index": [0, 1], "norm": 0.0})
    empty = panels(frame, [Panel("norm", "norm of F(x)", "index", "block", log=True)], "title")
    assert empty.charts == [] and "no value to draw: norm of F(x)" in empty.texts[0].get_text()
    assert "<noscript>" in page_of.drawing(empty, "caption")


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A page like that of `inspect why`: measures at stages, one with a map."""
    nets = ["depth 8, plain", HOSTILE]
    rows = []
    for net in nets:
        rows += [{"net": net, "index": i, "norm": 1.0 + i} for i in range(3)]
    frame = pd.DataFrame(rows)
    long = "share of the blocks that end the net with nearly the same output"
    lines = panels(frame, [Panel("norm", long, "index", "block")])
    square = np.eye(3)
    maps = Drawing(figsize=(4, 3), dpi=100)
    places = [0, 1, 2]
    for net in nets:
        one = Map(net, square, "linear CKA", "block", "block", places, places, (0.0, 1.0))
        maps.charts = [*getattr(maps, "charts", []), map_of(one, "#0072b2")]
    body = [page_of.heading(HOSTILE)]
    for measure, stage, figure in [
        ("gradients", "before training", lines),
        ("gradients", "after training", lines),
        ("similarity", "after training", maps),
        (HOSTILE, "after training", lines),
    ]:
        told = {"nets": " against ".join(nets), "measure": measure, "stage": stage}
        body.append(page_of.section([page_of.drawing(figure, f"{measure}, {stage}")], told))
    file = tmp_path_factory.mktemp("groups") / "page.html"
    file.write_text(page_of.page("Why", body, None, "resnet-cli inspect why"))
    return file


@pytest.fixture
def why(browser, groups):
    browser.size(1280)
    browser.open(groups.as_uri())
    browser.problems.clear()
    yield browser
    assert browser.problems == [] and browser.evaluate("document.title") != "ran"


def captions(browser):
    """Return the captions of the figures that are seen."""
    return browser.evaluate(
        "[...document.querySelectorAll('figcaption')].filter(c => c.offsetParent)"
        ".map(c => c.textContent)"
    )


def test_measures_and_stages_are_chosen(why):
    lists = "[...document.querySelectorAll('.groups select')].map(s => s.ariaLabel)"
    assert why.evaluate(lists) == ["measure", "stage"]  # the nets are the same in all
    assert len(captions(why)) == 4
    why.choose(control("measure"), "gradients")
    assert captions(why) == ["gradients, before training", "gradients, after training"]
    why.choose(control("stage"), "after training")
    assert captions(why) == ["gradients, after training"]
    why.choose(control("measure"), HOSTILE)
    assert captions(why) == [f"{HOSTILE}, after training"]
    why.choose(control("stage"), "before training")
    nothing = "document.querySelector('.groups + p').offsetParent !== null"
    assert captions(why) == [] and why.evaluate(nothing)
    for name in ("measure", "stage"):
        why.choose(control(name), "")
    assert len(captions(why)) == 4 and not why.evaluate(nothing)


def test_a_net_is_hidden_in_all_figures_also_in_those_not_shown(why):
    why.choose(control("stage"), "before training")
    why.click("document.querySelectorAll('.legend input')[1]")
    lines = "inspected.map(charts => charts.filter(c => c.lines).map(c => c.lines.length)).flat()"
    assert why.evaluate(lines) == [1, 1, 1]
    assert why.evaluate("inspected[2].map(map => map.card.hidden)") == [False, True]
    why.choose(control("stage"), "")
    why.wait("inspected[2][0].canvas.getBoundingClientRect().width > 300")  # drawn at its size
    boxes = "[...document.querySelectorAll('.legend input')].map(box => box.checked)"
    assert why.evaluate(boxes) == [True, False] * 4
    why.click("document.querySelectorAll('.legend input')[7]")
    assert why.evaluate(boxes) == [True] * 8 and why.evaluate(lines) == [2, 2, 2]
    for box in (0, 1):
        why.click(f"document.querySelectorAll('.legend input')[{box}]")
    assert "all lines are hidden" in why.evaluate("inspected[0][0].plot.textContent")


def test_groups_on_a_telephone_and_on_paper(why):
    label = "inspected[0][0].u.axes[1].label"
    assert why.evaluate(label).startswith("share of the blocks")
    why.size(390)
    why.open(why.evaluate("location.href"))
    assert why.evaluate(label) == ""  # too long for the axis; the title says the same
    assert why.evaluate("document.documentElement.scrollWidth") <= 390
    why.choose(control("measure"), "similarity")
    why.size(1280, media="print")
    assert captions(why) == ["similarity, after training"]
    assert why.evaluate("getComputedStyle(document.querySelector('.groups')).display") == "none"


def test_without_scripts_a_page_shows_an_image(browser, maps):
    browser.size(1280)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=maps.as_uri())
        browser.wait("document.querySelector('figure img')?.naturalWidth > 0")
        assert browser.evaluate("document.querySelectorAll('.chart').length") == 0
        assert (
            browser.evaluate("document.querySelector('figure img').alt") == f"what {HOSTILE} shows"
        )
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.slow
def test_a_hundred_runs_of_a_thousand_rows(tmp_path, browser, monkeypatch):
    """Size below 3 MB; the time to draw is printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = random.Random(0)
    for i in range(100):
        rows = []
        for step in range(10, 10_010, 10):
            now = {"step": step, "epoch": step // 100, "attempt": 1}
            now |= {"time": 1e9 + step * draw.uniform(0.09, 0.1)}
            loss = 5 / (1 + step / 500) * draw.uniform(0.8, 1.2)
            if step % 100:
                now |= {"train/loss": loss, "train/acc1": 1 / (1 + loss), "lr": 0.1}
                now |= {"perf/images_per_s": draw.uniform(900, 1100)}
                now |= {"perf/data_wait_frac": draw.random() / 50}
            else:
                now |= {"val/loss": loss, "val/acc1": 1 / (1 + loss), "val/acc5": 0.99}
                now |= {"train_eval/loss": loss, "train_eval/acc1": 1 / (1 + loss / 2)}
            rows.append(now)
        make_run(tmp_path / "runs/s" / f"r{i}", depth=20 + 6 * (i % 10), seed=i // 10, rows=rows)
    file = report([tmp_path / "runs"], tmp_path / "report").files[-1]
    size = file.stat().st_size
    browser.size(1280)
    begin = time.monotonic()
    browser.open(file.as_uri())
    seconds = time.monotonic() - begin
    told = []
    for choice in ("setting", "run"):
        browser.choose(control("one line for each"), choice)
        took = browser.evaluate(
            "(() => { const t = performance.now(); explorer.draw(); "
            "explorer.charts[0].chart.u.ctx.getImageData(0, 0, 1, 1); "
            "return performance.now() - t; })()"
        )
        told.append(f"{took:.0f} ms for a line each {choice}")
    print(f"\n{size / 1e6:.2f} MB, open in {seconds:.1f} s, two charts drawn in {', '.join(told)}")
    assert size < 3e6 and browser.problems == []
