"""What every SQL connector shares."""
