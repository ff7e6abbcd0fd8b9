"""`python -m rankpipe`: the command line."""

from rankpipe.cli import main

if __name__ == "__main__":
    main()
