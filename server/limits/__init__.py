"""What each key and tenant may use, what it has used, and whose turn it is."""
