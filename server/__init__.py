"""The HTTP side: endpoints, wire formats, engines, configuration and the command line."""
