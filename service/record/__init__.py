"""What was asked and answered, kept: shards on the disk, written beside the answers, read later."""
