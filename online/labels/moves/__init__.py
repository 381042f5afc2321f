"""What waits, divided anew between two lives of the lanes that hold it."""
