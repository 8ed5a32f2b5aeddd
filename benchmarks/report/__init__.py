"""From the raw records of measurements to one page that helps to choose a strategy."""
