"""Foreign files to arrays and tables, and back. Knows no statistics."""
