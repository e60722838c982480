"""``python -m megalm``."""

from megalm.cli.main import main

main()
