"""The `lepton` command: errors are one line, Ctrl-C is quiet."""

import os
import sys


def main() -> None:
    """Run the command; a failure is one line on stderr and exit code 1, and Ctrl-C is exit code 130.

    A traceback is shown only where LEPTON_DEBUG is set.
    """
    try:
        # Here and not above: Ctrl-C during the seconds that imports may take is handled, too.
        from lepton.cli.app import run

        run(sys.argv[1] if len(sys.argv) > 1 else "")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("LEPTON_DEBUG"):
            raise
        from lepton.cli.failures import one_line

        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
