"""One file per paper; importing a file registers what it defines."""
