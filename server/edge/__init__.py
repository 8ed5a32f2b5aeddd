"""At the socket: requests as they come in, unpacked, bounded in size and time, and whose key they bring."""
