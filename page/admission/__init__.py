"""What stands between strangers and the service: limits on bytes, time, and the waiting line."""
