"""Files that are whole or absent, run folders, and tables that grow."""
