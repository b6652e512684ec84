"""The Python packages in an image: `python -m deploy.packages [--image NAME] list|sizes|sbom|audit`.

list writes them one a line, sizes what each takes, sbom as CycloneDX JSON (needs cyclonedx-bom, extra dev),
audit asks PyPI for their known vulnerabilities (needs pip-audit, extra audit, and a network). None covers
Debian's packages.
"""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from inference.exit_codes import EXIT_USAGE

DOCKER = os.environ.get("DOCKER", "docker")
LIST = """
from importlib.metadata import distributions
print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\\n")
"""
SIZES = """
import json, os, sys, sysconfig
sizes = {}
for root in {sysconfig.get_path("purelib"), "/app", "/opt/extra"}:
    for folder, _, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            top = os.path.relpath(path, root).split(os.sep)[0]
            name = top.split("-")[0].split(".")[0].lower()  # numpy, numpy.libs, numpy-2.4.6.dist-info: one
            sizes[name] = sizes.get(name, 0) + os.lstat(path).st_size
print(json.dumps(sizes))
"""
REST = "Debian and Python"
GZIP_LEVEL = 6
"""Of `docker save IMAGE | gzip`."""
MB = 1e6


class NotInstalledError(click.ClickException):
    """A program that this needs is not there."""

    exit_code = EXIT_USAGE


def list_packages(image: str) -> list[str]:
    """`name==version` of each distribution that the image's Python finds."""
    return _python(image, LIST).split()


def measure_packages(image: str) -> dict[str, int]:
    """Bytes of each package in an image, its own code and weights among them, and of all the rest."""
    sizes: dict[str, int] = json.loads(_python(image, SIZES))
    size_bytes = int(_engine(image, "image", "inspect", "--format", "{{.Size}}", image))
    return {**sizes, REST: size_bytes - sum(sizes.values())}


def measure_compressed(image: str) -> int:
    """Bytes of `docker save IMAGE | gzip`."""
    counter = _Counter()
    with _engine_there():
        saving = subprocess.Popen([DOCKER, "save", image], stdout=subprocess.PIPE)
    with saving as process:
        assert process.stdout is not None
        with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
            while piece := process.stdout.read(1 << 20):
                packed.write(piece)
    if process.returncode != 0:
        raise click.ClickException(f"{image}: it cannot be saved")
    return counter.bytes


class _Counter:
    """A file that keeps the length of what is written, and nothing else."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def _python(image: str, code: str) -> str:
    """What Python code prints in an image's container."""
    options = ("--rm", "--network", "none", "--entrypoint", "python")
    return _engine(image, "run", *options, image, "-c", code)


def _engine(image: str, *arguments: str) -> str:
    with _engine_there():
        done = subprocess.run([DOCKER, *arguments], capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{image}: its packages cannot be listed ({done.stderr.strip()})")
    return done.stdout


@contextmanager
def _engine_there() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        told = f"{DOCKER}: no container engine ({error.strerror}). Install one, or name another in DOCKER"
        raise NotInstalledError(told) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--image", default=os.environ.get("IMAGE", "nested-vnet-kits19"), show_default=True)
@click.pass_context
def main(context: click.Context, image: str) -> None:
    """Tell what Python packages are in an image."""
    context.obj = image


@main.command(name="list")
@click.pass_obj
def list_command(image: str) -> None:
    """Print them one a line."""
    click.echo("\n".join(list_packages(image)))


@main.command()
@click.option("--against", metavar="IMAGE", help="Show what each package takes more than in this image.")
@click.option("--compressed", is_flag=True, help="Also the size as `docker save | gzip` (a minute).")
@click.pass_obj
def sizes(image: str, against: str | None, compressed: bool) -> None:
    """Print what each package takes, largest first: MB (1,000,000 bytes), unpacked."""
    own = _with_totals(image, compressed=compressed)
    others = None if against is None else _with_totals(against, compressed=compressed)
    for name in {**own, **(others or {})}:
        line = f"{own.get(name, 0) / MB:9.2f}"
        if others is not None:
            line += f" {(own.get(name, 0) - others.get(name, 0)) / MB:+9.2f}"
        click.echo(f"{line}  {name}")


def _with_totals(image: str, *, compressed: bool) -> Mapping[str, int]:
    sizes = measure_packages(image)
    totals = {"all": sum(sizes.values())}
    if compressed:
        totals["all, compressed"] = measure_compressed(image)
    return dict(sorted(sizes.items(), key=lambda item: -item[1])) | totals


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def sbom(image: str, file: Path) -> None:
    """Write them to FILE as CycloneDX JSON."""
    options = ["requirements", "--output-reproducible", "--of", "JSON", "-o", str(file), "-"]
    _pipe(list_packages(image), "cyclonedx-py", *options)


@main.command()
@click.pass_obj
def audit(image: str) -> None:
    """Ask PyPI for their known vulnerabilities. A package that could not be asked about counts as failed."""
    packages = [package.partition("+")[0] for package in list_packages(image)]  # PyPI knows no 2.13.0+cpu
    options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", "/dev/stdin"]
    _pipe(packages, "pip-audit", *options)


def _pipe(lines: list[str], program: str, *options: str) -> None:
    """Give lines to a program of this environment, and end with its exit code."""
    path = Path(sys.executable).with_name(program)
    command = [str(path) if path.exists() else program, *options]
    try:
        done = subprocess.run(command, input="\n".join(lines) + "\n", encoding="utf-8", check=False)
    except FileNotFoundError as error:
        raise NotInstalledError(f"{program} is not installed. See CONTRIBUTING.md") from error
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(prog_name="python -m deploy.packages")
