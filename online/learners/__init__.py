"""Online learners: folds over labelled examples, with snapshots and contributions."""
