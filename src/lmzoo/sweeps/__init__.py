"""Several runs from one command: planned, launched, resumed, counted and put into a table."""
