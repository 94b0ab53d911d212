"`python -m finerweb`: the command line."

from finerweb.runner.cli import main

main()
