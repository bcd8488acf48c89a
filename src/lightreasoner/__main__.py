"""`python -m lightreasoner`: the command line, where the scripts of the environment are not on the path."""

from lightreasoner.cli import main

if __name__ == "__main__":
    main()
