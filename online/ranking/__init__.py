"""What an entity takes next: what is remembered of its baskets, candidates and their features, and a learner."""
