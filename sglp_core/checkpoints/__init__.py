"""What lies on disk, checked before any library reads it."""
