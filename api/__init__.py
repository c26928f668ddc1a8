"""What makes the four files at the top fast and safe, one idea a module."""
