"""One file an API: its requests read, its answers written."""
