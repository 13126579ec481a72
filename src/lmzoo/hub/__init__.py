"""Models as folders that other libraries read, and theirs read here."""
