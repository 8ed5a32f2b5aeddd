"""The `heedful` command, one file a command."""
