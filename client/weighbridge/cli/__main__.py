"""`python -m weighbridge.cli` is `weighbridge`."""

from weighbridge.cli import main

main()
