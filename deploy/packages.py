"""The Python packages in an image: `python -m deploy.packages list|sbom|audit [--image NAME]`.

list writes them one a line, sbom as CycloneDX JSON (needs cyclonedx-bom, extra dev), audit asks PyPI for
their known vulnerabilities (needs pip-audit, extra audit, and a network). None covers Debian's packages.
"""

import os
import subprocess
import sys
from pathlib import Path

import click

DOCKER = os.environ.get("DOCKER", "docker")
LIST = """
from importlib.metadata import distributions
print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\\n")
"""


def list_packages(image: str) -> list[str]:
    """`name==version` of each distribution that the image's Python finds."""
    command = [DOCKER, "run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", LIST]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{image}: its packages cannot be listed ({done.stderr.strip()})")
    return done.stdout.split()


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
        raise click.ClickException(f"{program} is not installed. See CONTRIBUTING.md") from error
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(prog_name="python -m deploy.packages")
