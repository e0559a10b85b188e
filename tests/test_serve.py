"""`compare --serve`: the page on loopback, which follows runs while they grow."""

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from helpers.browser import CHROMIUM, chromium
from helpers.command_line import verb
from helpers.made_runs import epoch_rows, make_run

from lightning_resnet.analysis.compare import serve as serving
from lightning_resnet.cli import compare as command
from lightning_resnet.errors import UserError

main = verb(command)


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(serving, "LEAST_S", 0.0)
    monkeypatch.setattr(serving, "SHARE", 0)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def served(visit, run, capsys):
    """Serve the run's page; call `visit(address)` in a thread, then press Ctrl-C."""
    port = free_port()
    problems = []
    told = []
    tell = command.tell

    def client():
        try:
            end = time.monotonic() + 60
            while not told and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.3)  # the server listens; its loop begins at once
            visit(re.search(r"http://\S+", told[0])[0])
        except BaseException as problem:  # told in the main thread
            problems.append(problem)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def listen(*words):
        told.extend(word for word in map(str, words) if word.startswith("open http"))
        tell(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "tell", listen)
        thread = threading.Thread(target=client)
        thread.start()
        assert main([str(run.parent), "--serve", "--port", str(port)]) == 0
        thread.join()
    if problems:
        raise problems[0]
    out = capsys.readouterr().out
    assert f"ssh -N -L {port}:127.0.0.1:{port}" in out and out.rstrip().endswith("stopped")


def get(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_the_page_follows_the_runs_until_ctrl_c(tmp_path, capsys):
    run = make_run(tmp_path / "runs/s/a", reason="running", heartbeat=time.time())

    def visit(address):
        status, headers, page = get(address)
        assert status == 200 and "1 running" in page and "connect-src 'self'" in page
        assert get(address, **{"If-None-Match": headers["ETag"]})[0] == 304
        make_run(tmp_path / "runs/s/b", seed=1)
        again = get(address, **{"If-None-Match": headers["ETag"]})
        assert again[0] == 200 and "1 finished" in again[2]

    served(visit, run, capsys)
    assert "connect-src" not in (tmp_path / "runs/s/report/index.html").read_text()


def test_only_who_knows_the_address_sees_the_page(tmp_path, capsys):
    run = make_run(tmp_path / "runs/s/a")

    def visit(address):
        root = address.rsplit("/", 2)[0]
        for other in (root, f"{root}/wrong/", f"{address}index.html", f"{root}/../etc/passwd"):
            assert get(other)[0] == 404, other
        assert get(address, Host="evil.example")[0] == 404
        assert get(address, Host="localhost:9000")[0] == 200  # through a tunnel
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass

    served(visit, run, capsys)


def test_runs_that_cannot_be_read_leave_the_page_as_it_was():
    made = iter(["second"])

    def make():
        for page in made:
            return page
        raise UserError("no runs under runs")

    newest = serving.Newest(make, "first")
    assert [newest.content() for _ in range(3)] == [b"second"] * 3


def test_wrong_flags_are_refused(tmp_path):
    make_run(tmp_path / "runs/s/a")
    runs = str(tmp_path / "runs")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, words in (
            (["--serve", "--json"], "leave one of them out"),
            (["--port", "9000"], "say --serve too"),
            (["--serve", "--port", port], "in use"),
            (["--serve", "--port", "70000"], "1 to 65535"),
        ):
            with pytest.raises(UserError, match=words):
                main([runs, *flags])
    assert not (tmp_path / "runs/s/report").exists()


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
def test_a_browser_keeps_what_was_chosen(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "runs/s/a", reason="running", heartbeat=time.time(), errors=(50, 40))
    make_run(tmp_path / "runs/s/b", depth=56, seed=1)

    def visit(address):
        with chromium(tmp_path / "browser") as browser:
            browser.size(1280)
            browser.open(address)
            browser.wait("live.textContent !== ''")
            browser.choose("document.querySelector('[aria-label=\"x axis\"]')", "epoch")
            browser.type("explorer.filter", "depth == 20")
            assert len(browser.evaluate("explorer.charts[0].chart.lines[0].x")) == 2
            with (run / "metrics.jsonl").open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in epoch_rows(2, 30)))
            browser.evaluate("renew()")
            assert browser.evaluate("explorer.charts[0].chart.lines[0].x") == [1, 2, 3]
            assert browser.evaluate("document.querySelectorAll('table.runs tr').length") == 2
            assert browser.evaluate("explorer.state.x") == "epoch" and browser.problems == []
            with (run / "metrics.jsonl").open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in epoch_rows(3, 20)))
            browser.evaluate(
                "window.asked = window.fetch; window.later = 0;"
                "window.setTimeout = () => { window.later++; };"
                "window.fetch = async () => new Response('<p>', {headers: {ETag: 'other'}}); 1"
            )
            browser.evaluate("follow()")
            assert "could not be shown" in browser.evaluate("live.textContent")
            browser.evaluate("window.fetch = window.asked; 1")
            browser.evaluate("follow()")
            assert browser.evaluate("explorer.charts[0].chart.lines[0].x") == [1, 2, 3, 4]
            assert browser.evaluate("window.later") == 2 and browser.problems == []

    served(visit, run, capsys)
