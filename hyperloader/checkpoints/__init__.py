"""What weight files may hold."""
