"""Grand Challenge's invoke API: `python -m inference.serve`, a server that runs a job a request.

GET /health answers 200 as soon as PyTorch is loaded; POST /invoke segments what lies under the input folder
and answers 201, or 500 where the command would have ended with another exit code than 0. A job is the
command `python -m inference` itself, with the same checks and the same log; it reads the weights again,
which are small.
"""

import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer

import click

from . import cli
from .exit_codes import EXIT_OK

PORT = 4743
"""Where Grand Challenge asks (its algorithm template, app.py)."""
CLIENT_SECONDS = 30
"""A client that says nothing for so long is hung up on: it would keep all others out."""
EXIT_TERMINATED = 128 + signal.SIGTERM


class Handler(BaseHTTPRequestHandler):
    """One request at a time, in the main thread, which alone may handle signals."""

    arguments: tuple[str, ...] = ()
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        """/health: the server is there, so it is ready."""
        self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """/invoke: one job."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/invoke":
            self._answer(HTTPStatus.NOT_FOUND)
        elif _run_job(self.arguments) == EXIT_OK:
            self._answer(HTTPStatus.CREATED)
        else:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)

    def log_message(self, format: str, *arguments: object) -> None:
        """The jobs' own log says enough."""

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--port", default=PORT, show_default=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(port: int, arguments: tuple[str, ...]) -> None:
    """Serve until stopped; ARGUMENTS go to each job (see `python -m inference --help`)."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))
    Handler.arguments = arguments
    with HTTPServer(("", port), Handler) as server:
        print(f"listening on port {server.server_port}", file=sys.stderr, flush=True)
        server.serve_forever()


def _run_job(arguments: tuple[str, ...]) -> int:
    """The command's exit code; a signal to stop ends the process, and so the server too."""
    try:
        cli.main.main(arguments, prog_name="python -m inference", standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return EXIT_OK


if __name__ == "__main__":
    main(prog_name="python -m inference.serve")
