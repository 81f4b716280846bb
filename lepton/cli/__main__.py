"""`python -m lepton.cli` is the `lepton` command."""

from lepton.cli import main

main()
