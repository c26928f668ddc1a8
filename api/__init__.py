"""What makes the files at the top fast and safe, and all other routes: one idea a module."""
