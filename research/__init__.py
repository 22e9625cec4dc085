"""What was tried, one change at a time; nothing published rests on it."""
