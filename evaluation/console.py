"""The installed command `nested-vnet`: segment, serve, report, evaluate, rank."""

import sys

from inference.exit_codes import EXIT_USAGE
from inference.version import __version__

USAGE = """\
usage: nested-vnet COMMAND [ARGUMENTS]

  segment    write a label map for each CT under --input
  serve      answer Grand Challenge's invoke API over HTTP
  report     merge the reports of several runs
  evaluate   score label maps against references, or check a submission
  rank       rank folders of label maps as KiTS23 does

  nested-vnet COMMAND --help    the options of a command
  nested-vnet --version         the version

Research use only, non-commercial. No medical device.
"""


def main() -> None:
    """Hand over to the command that the first argument names; only what it needs is imported."""
    command, *arguments = sys.argv[1:] or ["--help"]
    name = f"nested-vnet {command}"
    if command == "segment":
        from inference.__main__ import main as segment

        segment(arguments, prog_name=name)
    elif command == "serve":
        from inference.serve import main as serve

        serve(arguments, prog_name=name)
    elif command == "report":
        from inference.cli import report

        report(arguments, prog_name=name)
    elif command == "evaluate":
        from evaluation.cli import main as evaluate

        evaluate(arguments, prog_name=name)
    elif command == "rank":
        from evaluation.ranking import main as rank

        rank(arguments, prog_name=name)
    elif command in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif command in ("-V", "--version"):
        print(f"nested-vnet {__version__}")
    else:
        print(f"nested-vnet: no command {command!r}\n\n{USAGE}", end="", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
