"""Grand Challenge's invoke API: a server whose requests are jobs."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from inference import serve
from inference.formats.ct import read_ct
from tests.helpers import abdomen, files_under, save_sitk, truncate

ROOT = Path(__file__).resolve().parent.parent
SPACING_MM = (5.0, 3.0, 2.5)


class Server:
    """The process, and how to ask it."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        arguments = ["--input", self.input, "--output", self.output, "--weights", weights]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.serve", "--port", "0", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.line().split()[-1])

    def line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def ask(self, method: str, path: str) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"), weights_folder)
    yield server
    server.process.kill()
    server.process.communicate()


def test_it_is_healthy_and_knows_no_other_address(server: Server) -> None:
    assert server.ask("GET", "/health") == 200
    assert server.ask("GET", "/") == 404
    assert server.ask("POST", "/health") == 404


def test_each_invocation_is_a_job_on_what_lies_there_then(server: Server) -> None:
    for name, with_tumor in (("first", True), ("second", False)):
        for folder in (server.input, server.output):  # fresh ones for each, as on Grand Challenge
            shutil.rmtree(folder, ignore_errors=True)
        image = server.input / "images" / "ct" / f"{name}.mha"
        save_sitk(image, abdomen(with_tumor=with_tumor), SPACING_MM)
        assert server.ask("POST", "/invoke") == 201
        output = f"images/kidney-tumor-segmentation/{name}.mha"
        assert [f for f in files_under(server.output) if f.endswith(".mha")] == [output]
        labels = read_ct(server.output / output).hu
        assert np.unique(labels).tolist() == ([0, 1, 2] if with_tumor else [0, 1])


def test_a_job_that_fails_is_500_and_the_server_goes_on(server: Server) -> None:
    shutil.rmtree(server.input)
    assert server.ask("POST", "/invoke") == 500  # wrong usage: nothing there
    broken = save_sitk(server.input / "images" / "ct" / "broken.mha", abdomen(), SPACING_MM)
    truncate(broken)
    assert server.ask("POST", "/invoke") == 500
    assert server.ask("GET", "/health") == 200


@pytest.mark.parametrize("length", ["x", "-1", "3", str(10**15), str(10**25), "9" * 5000])
def test_a_length_that_is_none_is_400(server: Server, length: str) -> None:
    """Nor is one that claims more than follows."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(f"POST /invoke HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{{}}".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).split()[1] == b"400"
    assert server.ask("GET", "/health") == 200


@pytest.mark.parametrize("sent", [b"", b"GET /hea"])
def test_a_client_that_goes_away_is_a_line(server: Server, sent: bytes) -> None:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    client.sendall(sent)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a probe
    client.close()
    while (line := server.line()).startswith(("INFO ", "WARNING ", "ERROR ")):  # of earlier jobs
        pass
    assert line.startswith("request of 127.0.0.1 not answered (ConnectionResetError(")
    assert server.ask("GET", "/health") == 200


def test_a_silent_client_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.Handler, "timeout", serve.Handler.timeout / 100)
    with (
        serve.Server(("127.0.0.1", 0), serve.Handler) as listening,
        socket.create_connection(listening.server_address[:2], timeout=60) as client,
    ):
        listening.handle_request()
        assert client.recv(1) == b""


def test_a_port_in_use_is_2_in_one_line(server: Server) -> None:
    words = [sys.executable, "-m", "inference.serve", "--port", str(server.port)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"port {server.port}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_crashes_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*arguments: object, **keywords: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(serve.cli.main, "main", crash)
    assert serve._run_job(()) == 1
    assert "the job crashed (ZeroDivisionError: surprise). This is a bug" in capsys.readouterr().err


def test_help_serves_nothing() -> None:
    done = CliRunner().invoke(serve.main, ["-h"])
    assert done.exit_code == 0
    assert "the options of `segment`" in " ".join(done.output.split())


def test_it_stops_when_told_to(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 128 + signal.SIGTERM
