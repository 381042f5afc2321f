"""``weir replay``: records of files, sent at a pace, and counted when the brokers have them."""
