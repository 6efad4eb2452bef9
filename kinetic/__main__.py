"""`python -m kinetic` is the command `kinetic`."""

from kinetic.cli import main

if __name__ == "__main__":
    main()
