"""`python -m metako`: the same program as the `metako` command."""

from metako.cli.main import main

if __name__ == "__main__":
    main()
