"""At the socket: requests as they come in, unpacked, bounded in size and time."""
