"""`python -m trainer` is the `firehose` command; `torchrun -m trainer` starts it on several devices."""

from trainer.cli import main

main()
