"""A Hub on the loopback interface: the endpoints that downloading a file uses."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class LoopbackHub:
    """Repositories and what is asked of them.

    Attributes:
      url: what HF_ENDPOINT is to be.
      revisions: (repository, revision) -> folder with the files.
      requests: (method, repository, file) of every request for a file.
      break_after: file -> bytes after which the connection breaks, once per entry.
      gated: repositories whose terms must be accepted.
      status: what every request is answered with instead, if not None.
    """

    def __init__(self, url: str):
        self.url = url
        self.revisions: dict[tuple[str, str], Path] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.break_after: dict[str, list[int]] = {}
        self.gated: set[str] = set()
        self.status: int | None = None

    def publish(self, repository: str, folder: Path, revision: str = "main") -> None:
        commit = commit_of(folder)
        self.revisions[repository, revision] = folder
        self.revisions[repository, commit] = folder

    def downloads(self) -> list[str]:
        """Return the files whose content was sent."""
        return [name for method, _, name in self.requests if method == "GET"]


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


@contextmanager
def loopback_hub():
    """Run a Hub until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format, *args):
            pass

        def do_HEAD(self):
            self.answer(with_content=False)

        def do_GET(self):
            self.answer(with_content=True)

        def answer(self, *, with_content: bool) -> None:
            parts = self.path.strip("/").split("/")
            if len(parts) != 5 or parts[2] != "resolve":
                return self.refuse(404, "")
            repository, revision, name = "/".join(parts[:2]), parts[3], parts[4]
            hub.requests.append((self.command, repository, name))
            if hub.status is not None:
                return self.refuse(hub.status, "")
            if repository in hub.gated:
                return self.refuse(403, "GatedRepo")
            if not any(key[0] == repository for key in hub.revisions):
                return self.refuse(404, "RepoNotFound")
            if (repository, revision) not in hub.revisions:
                return self.refuse(404, "RevisionNotFound")
            folder = hub.revisions[repository, revision]
            if not (folder / name).is_file():
                return self.refuse(404, "EntryNotFound")
            self.send_file(folder, name, with_content)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_file(self, folder: Path, name: str, with_content: bool) -> None:
            data = (folder / name).read_bytes()
            start = 0
            asked = self.headers.get("Range")
            if with_content and asked:
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            if start:
                span = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.send_header("Content-Range", span)
            self.send_header("X-Repo-Commit", commit_of(folder))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if not with_content:
                return
            if hub.break_after.get(name):
                self.wfile.write(data[start : start + hub.break_after[name].pop()])
                self.close_connection = True
                return
            self.wfile.write(data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = LoopbackHub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
