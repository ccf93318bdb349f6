"""`python -m edgefuse`: the same as the command `edgefuse`."""

from edgefuse.app.main import main

if __name__ == "__main__":
    main()
