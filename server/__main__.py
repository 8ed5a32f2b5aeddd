"""`python -m heedful.server` is the `heedful` command."""

from heedful.server.cli.main import main

if __name__ == "__main__":
    main()
