"""What was asked and answered, kept: recorded in shards, remembered until its truth is known."""
