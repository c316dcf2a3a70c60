"""A hub without models: one repository, over a real socket, with what a test wants to go wrong."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "lab/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """The repository's files, and who asked for what."""

    files: dict[str, bytes]
    commit: str = COMMIT
    token: str = ""
    """Set: nothing is shown without it."""
    stall_after_bytes: int | None = None
    """Set: a weight file stops after so many bytes, and waits."""
    broken: bool = False
    """Whether it answers nothing but errors."""
    endpoint: str = ""
    gets: list[tuple[str, str]] = field(default_factory=list)
    """Files that were fetched, with the range that was asked for."""
    tokens: set[str | None] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    gone_on: threading.Event = field(default_factory=threading.Event)

    def siblings(self) -> list[dict[str, object]]:
        """Return the files as the hub lists them."""
        return [_sibling(name, data) for name, data in self.files.items()]


def _sibling(name: str, data: bytes) -> dict[str, object]:
    made: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
    if name.endswith(".safetensors"):
        made["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
    return made


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub; `endpoint` says where."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._serve(body=False)

        def do_GET(self) -> None:
            self._serve(body=True)

        def _serve(self, body: bool) -> None:
            said = self.headers.get("authorization")
            hub.tokens.add(said)
            if hub.broken:
                self._answer(500, b"{}")
            elif hub.token and said != f"Bearer {hub.token}":
                self._answer(401, b"{}", **{"X-Error-Code": "GatedRepo"})
            elif self.path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                self._info(self.path.rpartition("/")[2].partition("?")[0])
            elif self.path.startswith(f"/{REPOSITORY}/resolve/{hub.commit}/"):
                self._file(self.path.removeprefix(f"/{REPOSITORY}/resolve/{hub.commit}/"), body)
            else:
                self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

        def _info(self, revision: str) -> None:
            if revision not in ("main", hub.commit):
                self._answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
                return
            found = {"id": REPOSITORY, "sha": hub.commit, "siblings": hub.siblings()}
            self._answer(200, json.dumps(found).encode())

        def _file(self, name: str, body: bool) -> None:
            if name not in hub.files:
                self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
                return
            data, large = hub.files[name], name.endswith(".safetensors")
            asked = self.headers.get("range", "") if body else ""
            start = int(re.sub(r"\D.*", "", asked.removeprefix("bytes=")) or 0)
            etag = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commit}
            if body:
                hub.gets.append((name, asked))
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._head(206 if start else 200, len(data) - start, headers)
            if body:
                self._send(data[start:], large)

        def _send(self, data: bytes, large: bool) -> None:
            limit = hub.stall_after_bytes if large else None
            if limit is not None:
                self.wfile.write(data[:limit])
                self.wfile.flush()
                hub.stalled.set()
                hub.gone_on.wait()
                data = data[limit:]
            self.wfile.write(data)

        def _answer(self, status: int, data: bytes, **headers: str) -> None:
            self._head(status, len(data), headers)
            self.wfile.write(data)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            # Whoever leaves in the middle is no failure of the hub.
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        # Whoever still waits in one of its threads.
        hub.gone_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
