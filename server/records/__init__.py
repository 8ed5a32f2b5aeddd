"""Decision records: what went into each answer, kept so that it can be explained later."""
