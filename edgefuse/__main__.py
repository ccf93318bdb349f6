"""`python -m edgefuse`: the same as the command `edgefuse`."""

from edgefuse.cli import main

if __name__ == "__main__":
    main()
