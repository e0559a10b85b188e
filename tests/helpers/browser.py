"""A headless Chromium for tests of pages, driven through its debugging pipe, without a driver.

Clicks, wheel and drags are real input events at the places of elements. Errors of scripts and of
the Content-Security-Policy are collected in `problems`.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60  # seconds for an answer
# The protocol's pipes are the descriptors 3 and 4 of the browser. A new process puts them there: in
# a forked child of pytest either number may be closed, or that of a pipe to its parent.
PLACE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a running Chromium.

    Args:
        send: writes to the pipe.
        receive: reads from it.
    """

    def __init__(self, send, receive):
        self._send = send
        self._receive = receive
        self._number = 0
        self._session = None
        self._rest = b""
        self.problems = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send a command of the DevTools protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _read(self):
        while b"\0" not in self._rest:
            piece = os.read(self._receive, 1 << 16)
            assert piece, "chromium has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"])
        elif event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.problems.append(entry["text"])

    def size(self, width, height=900, dark=False, media=""):
        """Set the window's size, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, address):
        """Open a page; wait until it is drawn."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && typeof ready !== 'undefined'")
        self.evaluate("ready")

    def evaluate(self, expression):
        """Return the value of an expression; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def place(self, element, x=0.5, y=0.5):
        """Scroll to an element (an expression); return where the mouse meets it."""
        box = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center'}}); "
            f"const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})"
            f"({element})"
        )
        return box[0] + x * box[2], box[1] + y * box[3]

    def mouse(self, kind, x, y, **other):
        """Send an event of the mouse."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **other)

    def click(self, element, count=1):
        """Click on an element."""
        x, y = self.place(element)
        self.mouse("mouseMoved", x, y)
        for n in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, button="left", clickCount=n)

    def drag(self, element, start, end):
        """Drag over an element, from one place to another, each as parts of width and height."""
        x, y = self.place(element, *start)
        to_x, to_y = self.place(element, *end)
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseMoved", (x + to_x) / 2, (y + to_y) / 2, button="left")
        self.mouse("mouseMoved", to_x, to_y, button="left")
        self.mouse("mouseReleased", to_x, to_y, button="left", clickCount=1)

    def choose(self, element, value):
        """Choose an entry of a list."""
        self.evaluate(
            f"(e => {{ e.value = {json.dumps(value)}; "
            f"e.dispatchEvent(new Event('change', {{bubbles: true}})); }})({element})"
        )

    def type(self, element, text):
        """Replace the text of a field by typing."""
        self.click(element)
        self.evaluate(f"({element}).select()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.evaluate(
                f"(e => {{ e.value = ''; e.dispatchEvent(new Event('input')); }})({element})"
            )

    def image(self, file, full=True):
        """Write what is seen as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(folder):
    """Give a `Browser`; `folder` holds its profile and what it downloads."""
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder}/profile", "about:blank"]
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)]
    process = subprocess.Popen(
        [sys.executable, "-c", PLACE, *map(str, ends), *command],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in (to_read, to_write, *ends):
        os.close(end)
    try:
        yield Browser(send, receive)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(send)
        os.close(receive)
