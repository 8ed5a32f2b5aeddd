"""What measures a server: evaluations, load, reports. It serves nothing."""
