"""What people and programs look up: tasks, entities, models, drift, retraining, dead letters."""
