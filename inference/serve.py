"""Grand Challenge's invoke API: `python -m inference.serve`, a server that runs one job per request.

GET /health answers 200 as soon as the server listens. POST /invoke segments what lies under the input folder
and answers 201, or 500 if the command ended with another exit code than 0. A job is the command
`python -m inference` itself, with the same checks and the same log. It loads the weights (18 MB) each time.
"""

import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import click

from . import cli
from .exit_codes import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE

PORT = 4743
"""Where Grand Challenge asks (its algorithm template, app.py)."""
CLIENT_SECONDS = 30
"""A silent client is disconnected after this time: requests are served one at a time."""
MAX_LENGTH_DIGITS = 18
"""Of a request's length; what is longer is no length."""
PIECE_BYTES = 1 << 16
EXIT_TERMINATED = 128 + signal.SIGTERM


class Handler(BaseHTTPRequestHandler):
    """One request at a time, in the main thread, which alone may handle signals."""

    arguments: tuple[str, ...] = ()
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        """/health: the server listens, so it is ready."""
        self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """/invoke: one job."""
        if not self._skip_body():
            self._answer(HTTPStatus.BAD_REQUEST)
        elif self.path != "/invoke":
            self._answer(HTTPStatus.NOT_FOUND)
        elif _run_job(self.arguments) == EXIT_OK:
            self._answer(HTTPStatus.CREATED)
        else:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _skip_body(self) -> bool:
        """Read past the body, which nobody needs, piece by piece; False if its length is not as claimed."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or len(length) > MAX_LENGTH_DIGITS:
            return False
        rest = int(length)
        while rest and (piece := self.rfile.read(min(rest, PIECE_BYTES))):
            rest -= len(piece)
        return not rest

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the job writes a log of its own."""

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(HTTPServer):
    """One that tells in a line of a client that went away, as probes of ports do."""

    def handle_error(self, request: object, client_address: Any) -> None:
        """The request is lost, the server goes on."""
        print(
            f"request of {client_address[0]} not answered ({sys.exception()!r})", file=sys.stderr, flush=True
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True})
@click.option("--port", default=PORT, show_default=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(port: int, arguments: tuple[str, ...]) -> None:
    """Serve until stopped. POST /invoke runs one job with ARGUMENTS, which are the options of `segment`."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))
    Handler.arguments = arguments
    try:
        listening = Server(("", port), Handler)
    except (OSError, OverflowError) as error:
        print(f"port {port}: {error}. Choose another --port", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    with listening as server:
        print(f"listening on port {server.server_port}", file=sys.stderr, flush=True)
        server.serve_forever()


def _run_job(arguments: tuple[str, ...]) -> int:
    """The command's exit code. A signal to stop during a job ends the server too."""
    try:
        cli.main.main(arguments, prog_name="python -m inference", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_OK if end.code is None else EXIT_SOME_FAILED
    except Exception as error:
        print(f"the job crashed ({type(error).__name__}: {error}). This is a bug: report it", file=sys.stderr)
        return EXIT_SOME_FAILED
    return EXIT_OK


if __name__ == "__main__":
    main(prog_name="python -m inference.serve")
