"""How the events of a run are shown to people and machines."""
