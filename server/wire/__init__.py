"""Wire formats: events to bytes, one file per API."""
