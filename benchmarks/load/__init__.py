"""`heedful bench`: the latency of any endpoint, as a user feels it."""
