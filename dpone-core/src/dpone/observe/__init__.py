"""What a run tells while it goes on, and how people and machines see it."""
