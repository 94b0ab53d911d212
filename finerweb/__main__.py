"`python -m finerweb`: the command line."

from finerweb.cli import main

main()
