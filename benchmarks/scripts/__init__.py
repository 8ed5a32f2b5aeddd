"""Single studies, each run as `python benchmarks/scripts/NAME.py`; results in benchmarks/results."""
