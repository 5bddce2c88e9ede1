"""A browser without a window."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
# What Chromium reads commands from and writes to are its descriptors 3 and 4.
_START = "import os, sys; r, w, *c = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); "
_START += "os.execvp(c[0], c)"


class Browser:
    """Chromium without a window, by its DevTools protocol over pipes; a context manager."""

    def __init__(self, profile):
        theirs_in, self._out = (fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in os.pipe())
        self._in, theirs_out = (fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in os.pipe())
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.write(self._out, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def _read(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], 30)
            assert ready, "Chromium does not answer"
            received = os.read(self._in, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def call(self, method, **parameters):
        """The result of a command; what happens in the meantime goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, script):
        """What a script gives, as JSON; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, file, width, height=844):
        """Shows a file in a window of this size, and returns when it is there."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        until = time.monotonic() + 30
        while not any(name == "Page.loadEventFired" for name, _ in self.events):
            assert time.monotonic() < until
            self._read()
        self.value("Promise.all([...document.images].map(image => image.decode()))")
