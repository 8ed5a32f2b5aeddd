"""`heedful serve --workers N`: several processes behind one port, on one machine."""
