"""`python -m trainer` is the `firehose` command."""

from trainer.cli import main

main()
